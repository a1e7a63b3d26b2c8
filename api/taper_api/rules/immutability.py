"""What of a job may change once it exists.

An attempt runs the job as it was when the attempt began, checkpoints are of a model and a
number of GPUs, and a comparison of rewards over the steps holds only if all were trained alike. So
what is trained, on what and how never changes. Where and with what the pods run may change
while the job is suspended. The rest may change at any time.
"""

from __future__ import annotations

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec

# By their names in YAML; of the operator and of the API server alike.
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
NEVER_REMEDY = "delete the job and create it anew, or create another one"
SUSPENDED_REMEDY = "set spec.suspend to true first"


def refused_changes(old: RLHFJobSpec, new: RLHFJobSpec) -> list[Problem]:
    """What in the step from one spec to another is not allowed."""
    names = {field.alias: name for name, field in RLHFJobSpec.model_fields.items()}
    refused = []
    for group, remedy in ((NEVER_CHANGES, NEVER_REMEDY), (CHANGES_WHILE_SUSPENDED, SUSPENDED_REMEDY)):
        if group is CHANGES_WHILE_SUSPENDED and old.suspend:
            continue
        for alias in group:
            if getattr(old, names[alias]) != getattr(new, names[alias]):
                refused.append(Problem(path=f"spec.{alias}", message="cannot be changed", remedy=remedy))
    return refused
