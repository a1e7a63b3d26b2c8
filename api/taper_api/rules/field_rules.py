"""Rules in CEL on single fields that no schema can state. For the parser, the field's own type does."""

from __future__ import annotations

from taper_api.base.kubernetes_names import JOB_NAME_PATTERN, MAX_JOB_NAME_CHARACTERS
from taper_api.base.quantity import MAX_CPUS
from taper_api.rules.rule import CelRule


def _cpu(path: str) -> CelRule:
    return CelRule(
        at=path,
        # Of a text, the schema's pattern says so.
        rule=f"type(self) != int || (self > 0 && self < {MAX_CPUS})",
        message=f"{path} must be a number of CPUs above zero: write it like 16 or 1500m",
    )


FIELD_RULES = (
    CelRule(
        at="",
        rule=f"size(self.metadata.name) <= {MAX_JOB_NAME_CHARACTERS} && "
        f"self.metadata.name.matches('{JOB_NAME_PATTERN}')",
        message=f"metadata.name must have at most {MAX_JOB_NAME_CHARACTERS} characters, lower-case letters, "
        "digits and inner dashes, a letter first: rename the job",
    ),
    CelRule(
        at="spec.rollout.sampling",
        rule="self.topK != 0",
        message="spec.rollout.sampling.topK must not be 0, which keeps no token: use -1 to keep all",
        field_path=".topK",
    ),
    _cpu("spec.nodePools.head.cpu"),
    _cpu("spec.nodePools.gpu.cpu"),
)
