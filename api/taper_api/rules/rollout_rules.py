"""Rules within `spec.rollout`. They also hold for a job that passes the block through VeRL's own command."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.rollout_spec import RolloutSpec
from taper_api.rules.rule import CelRule, Rule

# CEL has no loop over indices: these are those of the longest list, from the second entry on.
_NEXT_DEGREES = "[1, 2, 3]"
_NEXT_POINTS = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]"
_POINTS = "self.policy.schedule"


def _degrees(rollout: RolloutSpec) -> Iterator[Problem]:
    footprint, degrees = rollout.footprint, rollout.degrees
    for index, (previous, degree) in enumerate(itertools.pairwise(degrees), start=1):
        if degree <= previous:
            yield Problem(
                path=f"spec.rollout.degrees[{index}]",
                message=f"{degree} comes after {previous}",
                remedy="list the degrees in ascending order, each once",
            )
    if max(degrees) != footprint:
        yield Problem(
            path="spec.rollout.degrees",
            message=f"the widest degree is {max(degrees)}, but the footprint is {footprint}",
            remedy=f"end the list with {footprint}, or set footprint to {max(degrees)}",
        )


DEGREES = Rule(
    text="`degrees` ascends, each degree once, and ends with the footprint.",
    check=_degrees,
    cel=(
        CelRule(
            at="spec.rollout",
            rule="!has(self.degrees) || self.degrees[size(self.degrees) - 1] == self.footprint",
            message="spec.rollout.degrees must end with spec.rollout.footprint: add it, or change the "
            "footprint",
            field_path=".degrees",
        ),
        CelRule(
            at="spec.rollout",
            rule=f"!has(self.degrees) || {_NEXT_DEGREES}.all(i, i >= size(self.degrees) || "
            "self.degrees[i - 1] < self.degrees[i])",
            message="spec.rollout.degrees must ascend: list each degree once, the narrowest first",
            field_path=".degrees",
        ),
    ),
)


def _policy(rollout: RolloutSpec) -> Iterator[Problem]:
    policy = rollout.policy
    sections = {"predictor": policy.predictor, "threshold": policy.threshold, "schedule": policy.schedule}
    for name, section in sections.items():
        path = f"spec.rollout.policy.{name}"
        if name == policy.name and section is None and name != "predictor":
            yield Problem(path=path, message=f"is missing, but the policy is {name}", remedy=f"add {name}")
        if name != policy.name and section is not None:
            yield Problem(
                path=path,
                message=f"is set, but the policy is {policy.name}",
                remedy=f"remove it, or set spec.rollout.policy.name to {name}",
            )


def _policy_in_cel(name: str, *, is_needed: bool) -> CelRule:
    fits = f"has(self.{name})" if is_needed else "true"
    return CelRule(
        at="spec.rollout.policy",
        rule=f"self.name == '{name}' ? {fits} : !has(self.{name})",
        message=f"spec.rollout.policy.{name} {'must' if is_needed else 'may'} be given where the policy "
        f"is {name}, and nowhere else: add or remove it, or change spec.rollout.policy.name",
        field_path=f".{name}",
    )


POLICY = Rule(
    text="Of the policy's sections, only the one that `name` names is given.",
    check=_policy,
    cel=(
        _policy_in_cel("predictor", is_needed=False),
        _policy_in_cel("threshold", is_needed=True),
        _policy_in_cel("schedule", is_needed=True),
    ),
)


def _schedule(rollout: RolloutSpec) -> Iterator[Problem]:
    previous_tokens, previous_degree = 0, rollout.degrees[0]
    for index, point in enumerate(rollout.policy.schedule or ()):
        path = f"spec.rollout.policy.schedule[{index}]"
        if point.degree not in rollout.degrees:
            yield Problem(
                path=f"{path}.degree",
                message=f"{point.degree} is not among the degrees {list(rollout.degrees)}",
                remedy="use one of spec.rollout.degrees, or add it there",
            )
        elif point.degree == previous_degree:
            yield Problem(
                path=f"{path}.degree",
                message=f"the replica has degree {point.degree} already",
                remedy="name a degree to switch to; a stage starts in the first of spec.rollout.degrees",
            )
        if point.tokens <= previous_tokens:
            yield Problem(
                path=f"{path}.tokens",
                message=f"{point.tokens} comes after {previous_tokens}",
                remedy="list the points by ascending tokens",
            )
        if point.tokens >= rollout.response_tokens:
            yield Problem(
                path=f"{path}.tokens",
                message=f"no response is longer than {rollout.response_tokens} tokens",
                remedy="use less than spec.rollout.responseTokens",
            )
        previous_tokens, previous_degree = point.tokens, point.degree


def _schedule_in_cel(rule: str, message: str) -> CelRule:
    return CelRule(
        at="spec.rollout",
        rule=f"!has({_POINTS}) || ({rule})",
        message=f"spec.rollout.policy.schedule {message}",
        field_path=".policy.schedule",
    )


SCHEDULE = Rule(
    text="A schedule's tokens ascend below `responseTokens`; each point changes to one of the degrees.",
    check=_schedule,
    cel=(
        _schedule_in_cel(
            f"{_POINTS}.all(p, has(self.degrees) ? p.degree in self.degrees : p.degree <= self.footprint)",
            "may only name degrees of the replica: use those of spec.rollout.degrees",
        ),
        _schedule_in_cel(
            f"{_POINTS}[0].degree != (has(self.degrees) ? self.degrees[0] : 1) && {_NEXT_POINTS}.all(i, "
            f"i >= size({_POINTS}) || {_POINTS}[i - 1].degree != {_POINTS}[i].degree)",
            "must change the degree at each point: a stage starts in the first of spec.rollout.degrees",
        ),
        _schedule_in_cel(
            f"{_NEXT_POINTS}.all(i, i >= size({_POINTS}) || {_POINTS}[i - 1].tokens < {_POINTS}[i].tokens)",
            "must ascend: list the points by ascending tokens",
        ),
        _schedule_in_cel(
            f"{_POINTS}.all(p, p.tokens < self.responseTokens)",
            "must end before the longest response does: use less than spec.rollout.responseTokens",
        ),
    ),
)

ROLLOUT_RULES: tuple[Rule[RolloutSpec], ...] = (DEGREES, POLICY, SCHEDULE)


def rollout_contradictions(rollout: RolloutSpec) -> list[Problem]:
    """Every contradiction within a rollout block. Paths are those of an RLHFJob."""
    return [problem for rule in ROLLOUT_RULES for problem in rule.check(rollout)]
