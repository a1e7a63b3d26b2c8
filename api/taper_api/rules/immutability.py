"""Which fields of a job may change once it exists.

An attempt runs the job as it was when the attempt began, checkpoints belong to a model and a
number of GPUs, and rewards can be compared over the steps only if all steps were trained alike. So
what is trained, on what and how never changes. Where and with what the pods run may change
while the job is suspended. The rest may change at any time.

Only an API server has both the old and the new job, so these rules are in CEL alone.
"""

from __future__ import annotations

from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule

# By their names in YAML.
NEVER_CHANGES = (
    "model",
    "data",
    "reward",
    "algorithm",
    "training",
    "rollout",
    "verl",
    "volumes",
    "submissionMode",
    "managedBy",
)
CHANGES_WHILE_SUSPENDED = ("image", "env", "nodePools", "kueue")
NEVER_REMEDY = "delete the job and create it again, or create another one"
SUSPENDED_REMEDY = "set spec.suspend to true first"


def _is_same(name: str) -> str:
    """CEL for: a field of the spec did not change."""
    optional = {field.alias for field in RLHFJobSpec.model_fields.values() if field.default is None}
    same = f"self.{name} == oldSelf.{name}"
    if name in optional:
        return f"(has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same}))"
    return same


def _kept(name: str, unless: str, problem: str) -> CelRule:
    message = f"spec.{name} cannot be changed{problem}"
    return CelRule(at="spec", rule=f"{unless}{_is_same(name)}", message=message, field_path=f".{name}")


IMMUTABILITY_RULES = (
    *(_kept(name, "", f": {NEVER_REMEDY}") for name in NEVER_CHANGES),
    *(
        _kept(name, "oldSelf.suspend || ", f" while the job is not suspended: {SUSPENDED_REMEDY}")
        for name in CHANGES_WHILE_SUSPENDED
    ),
)
