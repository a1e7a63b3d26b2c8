"""Rules between the rollout, the training and the data of a job."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Constraint, Rule, rule_of


def _longest(spec: RLHFJobSpec) -> int:
    """The most tokens that a request may have."""
    return spec.data.max_prompt_tokens + spec.rollout.response_tokens


def _status_ports(spec: RLHFJobSpec) -> range:
    """The ports of the replicas' status servers, as far as they are known."""
    num_replicas = spec.training.ranks * spec.training.nodes // spec.rollout.footprint
    first = spec.rollout.port
    return range(0) if first is None else range(first, first + num_replicas)


RANKS = rule_of(
    "A footprint lies on one node: `training.ranks` is a multiple of it.",
    Constraint(
        at="spec",
        field="training.ranks",
        holds=lambda spec: spec.training.ranks % spec.rollout.footprint == 0,
        cel="self.training.ranks % self.rollout.footprint == 0",
        message="must divide into footprints, because a footprint lies on one node",
        remedy="use a multiple of spec.rollout.footprint",
        detail=lambda spec: (
            f"{spec.training.ranks} ranks on a node do not divide into footprints of {spec.rollout.footprint}"
        ),
        hint=lambda spec: (
            "use a multiple of spec.rollout.footprint, such as "
            f"{-(-spec.training.ranks // spec.rollout.footprint) * spec.rollout.footprint}"
        ),
    ),
)
ARENA = rule_of(
    "`kvTokens` holds at least one longest request.",
    Constraint(
        at="spec",
        field="rollout.kvTokens",
        holds=lambda spec: spec.rollout.kv_tokens is None or spec.rollout.kv_tokens >= _longest(spec),
        cel="!has(self.rollout.kvTokens) || "
        "self.rollout.kvTokens >= self.data.maxPromptTokens + self.rollout.responseTokens",
        message="must hold one longest request",
        remedy="use at least spec.data.maxPromptTokens + spec.rollout.responseTokens",
        detail=lambda spec: f"{spec.rollout.kv_tokens} tokens cannot hold one request of {_longest(spec)}",
    ),
)
PORTS = rule_of(
    "`metrics.port` is none of the status servers' ports.",
    Constraint(
        at="spec",
        field="rollout.metrics.port",
        holds=lambda spec: spec.rollout.metrics.port not in _status_ports(spec),
        cel="!has(self.rollout.port) || !has(self.rollout.metrics.port) || "
        "self.rollout.metrics.port < self.rollout.port || self.rollout.metrics.port >= "
        "self.rollout.port + self.training.ranks * self.training.nodes / self.rollout.footprint",
        message="must be none of the status servers' ports",
        remedy="use one outside of spec.rollout.port + number of replicas",
        detail=lambda spec: (
            f"{spec.rollout.metrics.port} is the port of replica "
            f"{spec.rollout.metrics.port - spec.rollout.port}'s status server"
        ),
        hint=lambda spec: (
            f"use {_status_ports(spec).stop} or above, or less than {spec.rollout.port}, "
            "or change spec.rollout.port"
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


SAMPLES = rule_of(
    "GRPO and DAPO compare the samples of a prompt: `samplesPerPrompt` is 2 or more.",
    Constraint(
        at="spec",
        field="rollout.samplesPerPrompt",
        holds=lambda spec: spec.algorithm.name == "ppo" or spec.rollout.samples_per_prompt >= 2,
        cel="self.algorithm.name == 'ppo' || self.rollout.samplesPerPrompt >= 2",
        message="is 1, but the algorithm compares the samples of a prompt",
        remedy="use 2 or more, or algorithm ppo",
    ),
)
VALIDATION = rule_of(
    "Validation needs validation prompts.",
    *(
        Constraint(
            at="spec",
            field=f"training.validation.{name}",
            holds=holds,
            cel=f"!{asked} || size(self.data.validation) > 0",
            message="asks for validation, but there are no validation prompts",
            remedy="add files under spec.data.validation, or remove it",
        )
        for name, asked, holds in (
            (
                "everySteps",
                "has(self.training.validation.everySteps)",
                lambda spec: spec.training.validation.every_steps is None or spec.data.validation,
            ),
            (
                "before",
                "self.training.validation.before",
                lambda spec: not spec.training.validation.before or spec.data.validation,
            ),
        )
    ),
)
CHECKPOINTS = rule_of(
    "`checkpoints.keep` needs `checkpoints.everySteps`.",
    Constraint(
        at="spec.training.checkpoints",
        field="keep",
        holds=lambda checkpoints: checkpoints.keep is None or checkpoints.every_steps is not None,
        cel="!has(self.keep) || has(self.everySteps)",
        message="is set, but no checkpoint is ever saved",
        remedy="set spec.training.checkpoints.everySteps, or remove it",
    ),
)
TRAINING_RULES: tuple[Rule[RLHFJobSpec], ...] = (RANKS, ARENA, PORTS, BATCH, SAMPLES, VALIDATION, CHECKPOINTS)
