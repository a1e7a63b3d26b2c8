"""What an API server checks of an RLHFJob beyond the types of its fields.

The table has the check of the parser beside each rule. A rule may take defaults for granted: the
server fills them in first. Optional fields without a default need `has()`. What a rule may cost is
bounded by the lengths in the schema: a text made by `string()` or an unbounded list has no bound, and the
server would refuse the whole definition.

What CEL cannot say is told by the operator instead, after the job was taken
(`Validated=False`): names in `spec.verl` that are not plain, and those below a setting that a
field stands for, because a server does not look at keys that its schema does not name.
"""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.kubernetes_names import JOB_NAME_PATTERN, MAX_JOB_NAME_CHARACTERS
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.cel_rule import FIELD, IMMUTABILITY, CelRule, escaped
from taper_api.rules.contradictions import SETTLED_BY_FIELD, SETTLED_GROUPS
from taper_api.rules.immutability import (
    CHANGES_WHILE_SUSPENDED,
    NEVER_CHANGES,
    NEVER_REMEDY,
    SUSPENDED_REMEDY,
)
from taper_api.rules.pod_rules import pod_rules

# CEL has no loop over indices: those of the longest list, from the second entry on.
_NEXT_DEGREES = "[1, 2, 3]"
_NEXT_POINTS = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]"
_POINTS = "self.policy.schedule"


def rlhfjob_rules() -> list[CelRule]:
    """All rules of the resource."""
    return [_name(), *_layout(), *_training(), *_policy(), *_schedule(), *_verl(), *pod_rules(), *_changes()]


def _name() -> CelRule:
    return CelRule(
        at="",
        rule=f"size(self.metadata.name) <= {MAX_JOB_NAME_CHARACTERS} && "
        f"self.metadata.name.matches('{JOB_NAME_PATTERN}')",
        message=f"metadata.name must have at most {MAX_JOB_NAME_CHARACTERS} characters, lower-case letters, "
        "digits and inner dashes, a letter first: rename the job",
        twin=FIELD,
    )


def _layout() -> Iterator[CelRule]:
    yield CelRule(
        at="spec.rollout",
        rule="!has(self.degrees) || self.degrees[size(self.degrees) - 1] == self.footprint",
        message="spec.rollout.degrees must end with spec.rollout.footprint: add it, or change the footprint",
        twin="degrees",
        field_path=".degrees",
    )
    yield CelRule(
        at="spec.rollout",
        rule=f"!has(self.degrees) || {_NEXT_DEGREES}.all(i, i >= size(self.degrees) || "
        "self.degrees[i - 1] < self.degrees[i])",
        message="spec.rollout.degrees must ascend: list each degree once, the narrowest first",
        twin="degrees",
        field_path=".degrees",
    )
    yield CelRule(
        at="spec",
        rule="self.training.ranks % self.rollout.footprint == 0",
        message="spec.training.ranks must divide into footprints, for a footprint lies on one node: use a "
        "multiple of spec.rollout.footprint",
        twin="ranks",
        field_path=".training.ranks",
    )
    yield CelRule(
        at="spec",
        rule="!has(self.rollout.kvTokens) || "
        "self.rollout.kvTokens >= self.data.maxPromptTokens + self.rollout.responseTokens",
        message="spec.rollout.kvTokens must hold one longest request: use at least spec.data.maxPromptTokens "
        "+ spec.rollout.responseTokens",
        twin="arena",
        field_path=".rollout.kvTokens",
    )
    yield CelRule(
        at="spec",
        rule="!has(self.rollout.port) || !has(self.rollout.metrics.port) || "
        "self.rollout.metrics.port < self.rollout.port || self.rollout.metrics.port >= "
        "self.rollout.port + self.training.ranks * self.training.nodes / self.rollout.footprint",
        message="spec.rollout.metrics.port must be none of the status servers' ports: use one outside of "
        "spec.rollout.port + number of replicas",
        twin="ports",
        field_path=".rollout.metrics.port",
    )


def _training() -> Iterator[CelRule]:
    yield CelRule(
        at="spec",
        rule="!has(self.algorithm.miniBatchPrompts) || "
        "self.training.batchPrompts % self.algorithm.miniBatchPrompts == 0",
        message="spec.algorithm.miniBatchPrompts must divide the batch: use a divisor of "
        "spec.training.batchPrompts",
        twin="batch",
        field_path=".algorithm.miniBatchPrompts",
    )
    yield CelRule(
        at="spec",
        rule="(has(self.algorithm.miniBatchPrompts) ? self.algorithm.miniBatchPrompts : "
        "self.training.batchPrompts) * self.rollout.samplesPerPrompt % "
        "(self.training.ranks * self.training.nodes) == 0",
        message="spec.training.batchPrompts (or spec.algorithm.miniBatchPrompts) x "
        "spec.rollout.samplesPerPrompt must divide over all ranks: use a multiple of training ranks x nodes",
        twin="batch",
        field_path=".training.batchPrompts",
    )
    yield CelRule(
        at="spec",
        rule="self.algorithm.name == 'ppo' || self.rollout.samplesPerPrompt >= 2",
        message="spec.rollout.samplesPerPrompt must be 2 or more, for the algorithm compares the samples of "
        "a prompt: raise it, or use algorithm ppo",
        twin="samples",
        field_path=".rollout.samplesPerPrompt",
    )
    for name, asked in (
        ("everySteps", "has(self.training.validation.everySteps)"),
        ("before", "self.training.validation.before"),
    ):
        yield CelRule(
            at="spec",
            rule=f"!{asked} || size(self.data.validation) > 0",
            message=f"spec.training.validation.{name} needs validation prompts: add files under "
            "spec.data.validation, or remove it",
            twin="validation",
            field_path=f".training.validation.{name}",
        )
    yield CelRule(
        at="spec.training.checkpoints",
        rule="!has(self.keep) || has(self.everySteps)",
        message="spec.training.checkpoints.keep needs checkpoints: set spec.training.checkpoints.everySteps, "
        "or remove it",
        twin="checkpoints",
        field_path=".keep",
    )
    yield CelRule(
        at="spec.rollout.sampling",
        rule="self.topK != 0",
        message="spec.rollout.sampling.topK must not be 0, which keeps no token: use -1 to keep all",
        twin=FIELD,
        field_path=".topK",
    )


def _policy() -> Iterator[CelRule]:
    for name, is_needed in (("predictor", False), ("threshold", True), ("schedule", True)):
        fits = f"has(self.{name})" if is_needed else "true"
        yield CelRule(
            at="spec.rollout.policy",
            rule=f"self.name == '{name}' ? {fits} : !has(self.{name})",
            message=f"spec.rollout.policy.{name} {'must' if is_needed else 'may'} be given where the policy "
            f"is {name}, and nowhere else: add or remove it, or change spec.rollout.policy.name",
            twin="policy",
            field_path=f".{name}",
        )


def _schedule() -> Iterator[CelRule]:
    path = "spec.rollout.policy.schedule"
    checks = (
        (
            f"{_POINTS}.all(p, has(self.degrees) ? p.degree in self.degrees : p.degree <= self.footprint)",
            "may only name degrees of the replica: use those of spec.rollout.degrees",
        ),
        (
            f"{_POINTS}[0].degree != (has(self.degrees) ? self.degrees[0] : 1) && {_NEXT_POINTS}.all(i, "
            f"i >= size({_POINTS}) || {_POINTS}[i - 1].degree != {_POINTS}[i].degree)",
            "must change the degree at each point: a stage starts in the first of spec.rollout.degrees",
        ),
        (
            f"{_NEXT_POINTS}.all(i, i >= size({_POINTS}) || {_POINTS}[i - 1].tokens < {_POINTS}[i].tokens)",
            "must ascend: list the points by ascending tokens",
        ),
        (
            f"{_POINTS}.all(p, p.tokens < self.responseTokens)",
            "must end before the longest response does: use less than spec.rollout.responseTokens",
        ),
    )
    for rule, message in checks:
        yield CelRule(
            at="spec.rollout",
            rule=f"!has({_POINTS}) || ({rule})",
            message=f"{path} {message}",
            twin="schedule",
            field_path=".policy.schedule",
        )


def _verl() -> Iterator[CelRule]:
    for name, field in SETTLED_BY_FIELD.items():
        yield CelRule(
            at="spec.verl",
            rule=f"!has(self.{escaped(name)})",
            message=f"spec.verl['{name}'] is set by {field}: remove it here",
            twin="verl",
        )
    for name in sorted(SETTLED_GROUPS):
        yield CelRule(
            at="spec.verl",
            rule=f"!has(self.{escaped(name)})",
            message=f"spec.verl['{name}'] holds settings that fields of the job stand for: give each "
            f"setting in it by its full name, {name}.<setting>",
            twin="verl",
        )


def _changes() -> Iterator[CelRule]:
    optional = {field.alias for field in RLHFJobSpec.model_fields.values() if field.default is None}
    for name in NEVER_CHANGES:
        yield CelRule(
            at="spec",
            rule=_is_same(name, is_optional=name in optional),
            message=f"spec.{name} cannot be changed: {NEVER_REMEDY}",
            twin=IMMUTABILITY,
            field_path=f".{name}",
        )
    for name in CHANGES_WHILE_SUSPENDED:
        yield CelRule(
            at="spec",
            rule=f"oldSelf.suspend || ({_is_same(name, is_optional=name in optional)})",
            message=f"spec.{name} cannot be changed while the job is not suspended: {SUSPENDED_REMEDY}",
            twin=IMMUTABILITY,
            field_path=f".{name}",
        )


def _is_same(name: str, *, is_optional: bool) -> str:
    same = f"self.{name} == oldSelf.{name}"
    if is_optional:
        return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})"
    return same
