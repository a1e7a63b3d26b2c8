"""Rules between the rollout, the training and the data of a job."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Rule


def _ranks(spec: RLHFJobSpec) -> Iterator[Problem]:
    ranks, footprint = spec.training.ranks, spec.rollout.footprint
    if ranks % footprint:
        yield Problem(
            path="spec.training.ranks",
            message=f"{ranks} ranks on a node do not divide into footprints of {footprint}",
            remedy=f"use a multiple of spec.rollout.footprint, such as {-(-ranks // footprint) * footprint}",
        )


RANKS = Rule(
    text="A footprint lies on one node: `training.ranks` is a multiple of it.",
    check=_ranks,
    cel=(
        CelRule(
            at="spec",
            rule="self.training.ranks % self.rollout.footprint == 0",
            message="spec.training.ranks must divide into footprints, because a footprint lies on one node: "
            "use a multiple of spec.rollout.footprint",
            field_path=".training.ranks",
        ),
    ),
)


def _arena(spec: RLHFJobSpec) -> Iterator[Problem]:
    longest = spec.data.max_prompt_tokens + spec.rollout.response_tokens
    if spec.rollout.kv_tokens is not None and spec.rollout.kv_tokens < longest:
        yield Problem(
            path="spec.rollout.kvTokens",
            message=f"{spec.rollout.kv_tokens} tokens cannot hold one request of {longest}",
            remedy="use at least spec.data.maxPromptTokens + spec.rollout.responseTokens",
        )


ARENA = Rule(
    text="`kvTokens` holds at least one longest request.",
    check=_arena,
    cel=(
        CelRule(
            at="spec",
            rule="!has(self.rollout.kvTokens) || "
            "self.rollout.kvTokens >= self.data.maxPromptTokens + self.rollout.responseTokens",
            message="spec.rollout.kvTokens must hold one longest request: use at least "
            "spec.data.maxPromptTokens + spec.rollout.responseTokens",
            field_path=".rollout.kvTokens",
        ),
    ),
)


def _ports(spec: RLHFJobSpec) -> Iterator[Problem]:
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


PORTS = Rule(
    text="`metrics.port` is none of the status servers' ports.",
    check=_ports,
    cel=(
        CelRule(
            at="spec",
            rule="!has(self.rollout.port) || !has(self.rollout.metrics.port) || "
            "self.rollout.metrics.port < self.rollout.port || self.rollout.metrics.port >= "
            "self.rollout.port + self.training.ranks * self.training.nodes / self.rollout.footprint",
            message="spec.rollout.metrics.port must be none of the status servers' ports: use one outside of "
            "spec.rollout.port + number of replicas",
            field_path=".rollout.metrics.port",
        ),
    ),
)


def _batch(spec: RLHFJobSpec) -> Iterator[Problem]:
    batch, mini = spec.training.batch_prompts, spec.algorithm.mini_batch_prompts
    num_ranks, samples = spec.training.ranks * spec.training.nodes, spec.rollout.samples_per_prompt
    if mini is not None and batch % mini:
        yield Problem(
            path="spec.algorithm.miniBatchPrompts",
            message=f"{mini} does not divide the batch of {batch} prompts",
            remedy="use a divisor of spec.training.batchPrompts",
        )
    path = "spec.training.batchPrompts" if mini is None else "spec.algorithm.miniBatchPrompts"
    prompts = batch if mini is None else mini
    if prompts * samples % num_ranks:
        yield Problem(
            path=path,
            message=f"{prompts} prompts of {samples} samples do not divide over {num_ranks} ranks",
            remedy="make prompts x spec.rollout.samplesPerPrompt a multiple of training ranks x nodes",
        )


BATCH = Rule(
    text="`miniBatchPrompts` divides `batchPrompts`; samples of a mini-batch divide evenly over all ranks.",
    check=_batch,
    cel=(
        CelRule(
            at="spec",
            rule="!has(self.algorithm.miniBatchPrompts) || "
            "self.training.batchPrompts % self.algorithm.miniBatchPrompts == 0",
            message="spec.algorithm.miniBatchPrompts must divide the batch: use a divisor of "
            "spec.training.batchPrompts",
            field_path=".algorithm.miniBatchPrompts",
        ),
        CelRule(
            at="spec",
            rule="(has(self.algorithm.miniBatchPrompts) ? self.algorithm.miniBatchPrompts : "
            "self.training.batchPrompts) * self.rollout.samplesPerPrompt % "
            "(self.training.ranks * self.training.nodes) == 0",
            message="spec.training.batchPrompts (or spec.algorithm.miniBatchPrompts) x "
            "spec.rollout.samplesPerPrompt must divide over all ranks: use a multiple of training ranks x "
            "nodes",
            field_path=".training.batchPrompts",
        ),
    ),
)


def _samples(spec: RLHFJobSpec) -> Iterator[Problem]:
    if spec.algorithm.name in ("grpo", "dapo") and spec.rollout.samples_per_prompt < 2:
        yield Problem(
            path="spec.rollout.samplesPerPrompt",
            message=f"{spec.algorithm.name} compares the samples of a prompt, and there is only one",
            remedy="use 2 or more, or algorithm ppo",
        )


SAMPLES = Rule(
    text="GRPO and DAPO compare the samples of a prompt: `samplesPerPrompt` is 2 or more.",
    check=_samples,
    cel=(
        CelRule(
            at="spec",
            rule="self.algorithm.name == 'ppo' || self.rollout.samplesPerPrompt >= 2",
            message="spec.rollout.samplesPerPrompt must be 2 or more, because the algorithm compares the "
            "samples of a prompt: raise it, or use algorithm ppo",
            field_path=".rollout.samplesPerPrompt",
        ),
    ),
)


def _validation(spec: RLHFJobSpec) -> Iterator[Problem]:
    validation = spec.training.validation
    asked = {"everySteps": validation.every_steps is not None, "before": validation.before}
    for name in (name for name, is_asked in asked.items() if is_asked and not spec.data.validation):
        yield Problem(
            path=f"spec.training.validation.{name}",
            message="asks for validation, but there are no validation prompts",
            remedy="add files under spec.data.validation, or remove it",
        )


def _validation_in_cel(name: str, asked: str) -> CelRule:
    return CelRule(
        at="spec",
        rule=f"!{asked} || size(self.data.validation) > 0",
        message=f"spec.training.validation.{name} needs validation prompts: add files under "
        "spec.data.validation, or remove it",
        field_path=f".training.validation.{name}",
    )


VALIDATION = Rule(
    text="Validation needs validation prompts.",
    check=_validation,
    cel=(
        _validation_in_cel("everySteps", "has(self.training.validation.everySteps)"),
        _validation_in_cel("before", "self.training.validation.before"),
    ),
)


def _checkpoints(spec: RLHFJobSpec) -> Iterator[Problem]:
    checkpoints = spec.training.checkpoints
    if checkpoints.keep is not None and checkpoints.every_steps is None:
        yield Problem(
            path="spec.training.checkpoints.keep",
            message="is set, but no checkpoint is ever saved",
            remedy="set spec.training.checkpoints.everySteps, or remove it",
        )


CHECKPOINTS = Rule(
    text="`checkpoints.keep` needs `checkpoints.everySteps`.",
    check=_checkpoints,
    cel=(
        CelRule(
            at="spec.training.checkpoints",
            rule="!has(self.keep) || has(self.everySteps)",
            message="spec.training.checkpoints.keep needs checkpoints: set "
            "spec.training.checkpoints.everySteps, or remove it",
            field_path=".keep",
        ),
    ),
)

TRAINING_RULES: tuple[Rule[RLHFJobSpec], ...] = (RANKS, ARENA, PORTS, BATCH, SAMPLES, VALIDATION, CHECKPOINTS)
