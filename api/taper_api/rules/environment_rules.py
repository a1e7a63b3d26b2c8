"""The rule on `spec.env`, which only a cluster reads."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Rule

RESERVED_PREFIXES = ("RAY_", "TAPER_")


def _environment(spec: RLHFJobSpec) -> Iterator[Problem]:
    seen = set()
    for index, variable in enumerate(spec.env):
        path = f"spec.env[{index}]"
        if (variable.value is None) == (variable.secret is None):
            yield Problem(
                path=path, message="has both a value and a secret, or neither", remedy="give one of them"
            )
        if variable.name.startswith(RESERVED_PREFIXES):
            yield Problem(
                path=f"{path}.name",
                message=f"{variable.name} is reserved for Ray or Taper",
                remedy=f"use a name that begins with neither {' nor '.join(RESERVED_PREFIXES)}",
            )
        if variable.name in seen:
            yield Problem(
                path=f"{path}.name", message=f"{variable.name} is given twice", remedy="remove one of them"
            )
        seen.add(variable.name)


def _prefix_in_cel(prefix: str) -> CelRule:
    return CelRule(
        at="spec.env[]",
        rule=f"!self.name.startsWith('{prefix}')",
        message=f"spec.env[].name must not begin with {prefix}, which is reserved: use another name",
        field_path=".name",
    )


# That a name is given once, the server knows by the list's key.
ENVIRONMENT = Rule(
    text="A variable of `env` has either a `value` or a `secret`, and a name of its own, which begins with "
    "neither `RAY_` nor `TAPER_`.",
    check=_environment,
    cel=(
        CelRule(
            at="spec.env[]",
            rule="has(self.value) != has(self.secret)",
            message="spec.env[] must have either a value or a secret: give one of them",
        ),
        *(_prefix_in_cel(prefix) for prefix in RESERVED_PREFIXES),
    ),
)
