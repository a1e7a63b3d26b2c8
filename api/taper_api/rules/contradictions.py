"""Rules between fields of a job.

Each rule is a pure generator from the spec to its problems; its docstring is its line in the
configuration reference. A rule may take for granted
that every field is valid by itself. All rules run, so an author sees all contradictions
at once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from pydantic import JsonValue

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.pod_contradictions import POD_RULES

# VeRL settings that a field of the job stands for: two places for one choice would contradict each other.
SETTLED_BY_FIELD = {
    "actor_rollout_ref.rollout.name": "spec.rollout (it is always taper)",
    "actor_rollout_ref.rollout.custom": "spec.rollout",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "spec.rollout.footprint",
    "actor_rollout_ref.rollout.n": "spec.rollout.samplesPerPrompt",
    "actor_rollout_ref.rollout.response_length": "spec.rollout.responseTokens",
    "actor_rollout_ref.model.path": "spec.model.path",
    "algorithm.adv_estimator": "spec.algorithm.name",
    "data.train_files": "spec.data.train",
    "data.val_files": "spec.data.validation",
    "data.train_batch_size": "spec.training.batchPrompts",
    "data.max_prompt_length": "spec.data.maxPromptTokens",
    "data.max_response_length": "spec.rollout.responseTokens",
    "trainer.n_gpus_per_node": "spec.training.ranks",
    "trainer.nnodes": "spec.training.nodes",
    "trainer.total_training_steps": "spec.training.steps",
    "trainer.default_local_dir": "spec.training.checkpoints.directory",
    "trainer.resume_mode": "spec.training.checkpoints.resume",
}

# Mappings of VeRL's that hold such settings.
SETTLED_GROUPS = frozenset(
    ".".join(parts[:length])
    for parts in (name.split(".") for name in SETTLED_BY_FIELD)
    for length in range(1, len(parts))
)


def contradictions(spec: RLHFJobSpec) -> list[Problem]:
    """Every contradiction between the fields of a spec, in the order of RULES."""
    return [problem for rule in RULES.values() for problem in rule(spec)]


def _degrees(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`degrees` ascends, each degree once, and ends with the footprint."""
    footprint, degrees = spec.rollout.footprint, spec.rollout.degrees
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


def _ranks(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A footprint lies on one node: `training.ranks` is a multiple of it."""
    ranks, footprint = spec.training.ranks, spec.rollout.footprint
    if ranks % footprint:
        yield Problem(
            path="spec.training.ranks",
            message=f"{ranks} ranks on a node do not divide into footprints of {footprint}",
            remedy=f"use a multiple of spec.rollout.footprint, such as {-(-ranks // footprint) * footprint}",
        )


def _batch(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`miniBatchPrompts` divides `batchPrompts`; samples of a mini-batch divide evenly over all ranks."""
    batch, mini = spec.training.batch_prompts, spec.algorithm.mini_batch_prompts
    num_ranks, samples = spec.training.ranks * spec.training.nodes, spec.rollout.samples_per_prompt
    if mini is not None and batch % mini:
        yield Problem(
            path="spec.algorithm.miniBatchPrompts",
            message=f"{mini} does not divide the batch of {batch} prompts",
            remedy="use a divisor of spec.training.batchPrompts",
        )
    path, prompts = (
        ("spec.algorithm.miniBatchPrompts", mini)
        if mini is not None
        else ("spec.training.batchPrompts", batch)
    )
    if prompts * samples % num_ranks:
        yield Problem(
            path=path,
            message=f"{prompts} prompts of {samples} samples do not divide over {num_ranks} ranks",
            remedy="make prompts x spec.rollout.samplesPerPrompt a multiple of training ranks x nodes",
        )


def _samples(spec: RLHFJobSpec) -> Iterator[Problem]:
    """GRPO and DAPO compare the samples of a prompt: `samplesPerPrompt` is 2 or more."""
    if spec.algorithm.name in ("grpo", "dapo") and spec.rollout.samples_per_prompt < 2:
        yield Problem(
            path="spec.rollout.samplesPerPrompt",
            message=f"{spec.algorithm.name} compares the samples of a prompt, and there is only one",
            remedy="use 2 or more, or algorithm ppo",
        )


def _policy(spec: RLHFJobSpec) -> Iterator[Problem]:
    """Of the policy's sections, the one that its name names is given, and no other."""
    policy = spec.rollout.policy
    sections = {"predictor": policy.predictor, "threshold": policy.threshold, "schedule": policy.schedule}
    for name, section in sections.items():
        path = f"spec.rollout.policy.{name}"
        if name == policy.name and section is None and name != "predictor":
            yield Problem(path=path, message="is missing, but the policy is called so", remedy=f"add {name}")
        if name != policy.name and section is not None:
            yield Problem(
                path=path,
                message=f"is set, but the policy is {policy.name}",
                remedy=f"remove it, or set spec.rollout.policy.name to {name}",
            )


def _schedule(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A schedule's tokens ascend below `responseTokens`; each point changes to one of the degrees."""
    previous_tokens, previous_degree = 0, spec.rollout.degrees[0]
    for index, point in enumerate(spec.rollout.policy.schedule or ()):
        path = f"spec.rollout.policy.schedule[{index}]"
        if point.degree not in spec.rollout.degrees:
            yield Problem(
                path=f"{path}.degree",
                message=f"{point.degree} is not among the degrees {list(spec.rollout.degrees)}",
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
        if point.tokens >= spec.rollout.response_tokens:
            yield Problem(
                path=f"{path}.tokens",
                message=f"no response lives past {spec.rollout.response_tokens} tokens",
                remedy="use less than spec.rollout.responseTokens",
            )
        previous_tokens, previous_degree = point.tokens, point.degree


def _arena(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`kvTokens` holds at least one longest request."""
    longest = spec.data.max_prompt_tokens + spec.rollout.response_tokens
    if spec.rollout.kv_tokens is not None and spec.rollout.kv_tokens < longest:
        yield Problem(
            path="spec.rollout.kvTokens",
            message=f"{spec.rollout.kv_tokens} tokens cannot hold one request of {longest}",
            remedy="use at least spec.data.maxPromptTokens + spec.rollout.responseTokens",
        )


def _ports(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`metrics.port` is none of the status servers' ports."""
    first, port = spec.rollout.port, spec.rollout.metrics.port
    if first is None or port is None:
        return
    last = first + spec.training.ranks * spec.training.nodes // spec.rollout.footprint - 1
    if first <= port <= last:
        yield Problem(
            path="spec.rollout.metrics.port",
            message=f"{port} is the port of replica {port - first}'s status server",
            remedy=f"use {last + 1} or above, or less than {first}, or change spec.rollout.port",
        )


def _validation(spec: RLHFJobSpec) -> Iterator[Problem]:
    """Validation needs validation prompts."""
    validation = spec.training.validation
    asked = {"everySteps": validation.every_steps is not None, "before": validation.before}
    for name in (name for name, is_asked in asked.items() if is_asked and not spec.data.validation):
        yield Problem(
            path=f"spec.training.validation.{name}",
            message="asks for validation, but there are no validation prompts",
            remedy="add files under spec.data.validation, or remove it",
        )


def _checkpoints(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`checkpoints.keep` needs `checkpoints.everySteps`."""
    checkpoints = spec.training.checkpoints
    if checkpoints.keep is not None and checkpoints.every_steps is None:
        yield Problem(
            path="spec.training.checkpoints.keep",
            message="is set, but no checkpoint is ever saved",
            remedy="set spec.training.checkpoints.everySteps, or remove it",
        )


def _verl(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`spec.verl` holds plain dotted names, and none that a field of the job stands for (listed below) nor
    a mapping around one."""
    for name in spec.verl:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            yield Problem(
                path=f"spec.verl[{name!r}]",
                message="is not a plain dotted name",
                remedy="write it without Hydra's + and ~; settings are added where they are missing",
            )
    settled = {name: field for name, full in _dotted(spec.verl) if (field := _field_for(full)) is not None}
    for name, field in settled.items():
        yield Problem(path=f"spec.verl[{name!r}]", message=f"is set by {field}", remedy="remove it here")
    for name in spec.verl:
        if name not in settled and name in SETTLED_GROUPS:
            yield Problem(
                path=f"spec.verl[{name!r}]",
                message="holds settings that fields of the job stand for",
                remedy=f"give each setting in it by its full name, {name}.<setting>",
            )


def _field_for(setting: str) -> str | None:
    """The field that stands for a setting of VeRL; None where there is none."""
    for settled, field in SETTLED_BY_FIELD.items():
        if setting == settled or setting.startswith(f"{settled}."):
            return field
    return None


def _dotted(settings: dict[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Each setting's name as written, and the full name of every leaf under it."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((name, f"{name}.{inner}") for _, inner in _dotted(value))
        else:
            yield name, name


Rule = Callable[[RLHFJobSpec], Iterator[Problem]]

_RULES: tuple[Rule, ...] = (
    _degrees,
    _ranks,
    _batch,
    _samples,
    _policy,
    _schedule,
    _arena,
    _ports,
    _validation,
    _checkpoints,
    _verl,
)
RULES: dict[str, Rule] = {rule.__name__.removeprefix("_"): rule for rule in (*_RULES, *POD_RULES)}
