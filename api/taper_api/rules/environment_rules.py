"""The rule on `spec.env`, which only a cluster reads."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import Constraint, Rule

RESERVED_PREFIXES = ("RAY_", "TAPER_")
_CONSTRAINTS = (
    Constraint(
        at="spec.env[]",
        holds=lambda variable: (variable.value is None) != (variable.secret is None),
        cel="has(self.value) != has(self.secret)",
        message="must have either a value or a secret",
        remedy="give one of them",
    ),
    *(
        Constraint(
            at="spec.env[]",
            field="name",
            holds=lambda variable, prefix=prefix: not variable.name.startswith(prefix),  # type: ignore[misc]
            cel=f"!self.name.startsWith('{prefix}')",
            message=f"must not begin with {prefix}, which is reserved",
            remedy="use another name",
        )
        for prefix in RESERVED_PREFIXES
    ),
)


def _environment(spec: RLHFJobSpec) -> Iterator[Problem]:
    for constraint in _CONSTRAINTS:
        yield from constraint.problems(spec)
    # That a name is given once, the server knows by the list's key.
    names = [variable.name for variable in spec.env]
    for index, name in enumerate(names):
        if name in names[:index]:
            path = f"spec.env[{index}].name"
            yield Problem(path=path, message=f"{name} is given twice", remedy="remove one of them")


ENVIRONMENT = Rule(
    text="A variable of `env` has either a `value` or a `secret`, and a name of its own, which begins with "
    "neither `RAY_` nor `TAPER_`.",
    check=_environment,
    cel=tuple(constraint.in_cel() for constraint in _CONSTRAINTS),
)
