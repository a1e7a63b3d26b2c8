"""`spec.rollout`: how responses are generated, and in which layouts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from taper_api.base.block import Block
from taper_api.base.violations import unfit

DEGREES = (1, 2, 4, 8)


def _power_of_two(degree: int) -> int:
    if degree not in DEGREES:
        is_power = degree > 0 and degree & (degree - 1) == 0
        problem = "is larger than 8" if is_power else "is not a power of two"
        raise unfit(f"{degree} {problem}", "use 1, 2, 4 or 8")
    return degree


Degree = Annotated[
    int, AfterValidator(_power_of_two), WithJsonSchema({"type": "integer", "enum": list(DEGREES)})
]
# Far above any sensible value, and products of two such numbers still fit 64 bits.
MAX_INTEGER = 2**31 - 1
Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
NonEmpty = Annotated[str, Field(min_length=1, max_length=1024)]


def _top_k(num_tokens: int) -> int:
    if num_tokens == 0:
        raise unfit("0 keeps no token", "use -1 to keep all, or 1 or more")
    return num_tokens


def degrees_up_to(footprint: int) -> tuple[int, ...]:
    """Every degree that a footprint allows, ascending: the default of `degrees`."""
    return tuple(degree for degree in DEGREES if degree <= footprint)


class ThresholdSpec(Block):
    """Widen once few requests are left."""

    requests: Positive = Field(
        default=4, description="Widen when this many requests, or fewer, are still running in the replica."
    )


class SchedulePointSpec(Block):
    """One planned switch."""

    tokens: Positive = Field(
        description="Switch once the longest running response of the stage has this many tokens."
    )
    degree: Degree = Field(description="The degree to switch to; one of `spec.rollout.degrees`.")


class PredictorSpec(Block):
    """How much time a switch must be predicted to save."""

    margin_seconds: float = Field(
        default=0.02,
        ge=0,
        le=3600,
        description="Minimum gain over staying, in seconds, in addition to `marginShare`.",
    )
    margin_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Minimum gain over staying, as a share of the time that staying would take.",
    )
    confidence: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="Share of the forecast's scenarios in which a switch must save time.",
    )


class Policy(Block):
    """When to switch. Only the section that `name` names may be given."""

    name: Literal["predictor", "widen-at-once", "threshold", "schedule"] = Field(
        default="predictor",
        description="`predictor`: when a switch is predicted to save time, by the measured profile "
        "and the forecast of lengths. `widen-at-once`: as soon as a group is idle. `threshold`: when few "
        "requests are left. `schedule`: at given token counts.",
    )
    predictor: PredictorSpec | None = Field(
        default=None, description="Settings of the predictor; may be given when `name` is `predictor`."
    )
    threshold: ThresholdSpec | None = Field(
        default=None, description="Settings of the threshold policy; required when `name` is `threshold`."
    )
    schedule: (
        Annotated[tuple[SchedulePointSpec, ...], Field(strict=False, min_length=1, max_length=16)] | None
    ) = Field(
        default=None,
        description="Planned switches, by ascending tokens; required when `name` is `schedule`.",
    )


class Sampling(Block):
    """How a token is drawn."""

    temperature: float = Field(default=1.0, ge=0, description="Softmax temperature; 0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Probability mass that is kept.")
    top_k: Annotated[int, AfterValidator(_top_k)] = Field(
        default=-1, ge=-1, le=MAX_INTEGER, description="Number of tokens that are kept; -1 keeps all."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**31,
        description="With a seed, the noise of each sample depends only on the seed, the step, the prompt "
        "and the sample's index, so that a switch does not change the response. Without one, responses "
        "are not repeatable.",
    )


class SwitchSpec(Block):
    """How a switch treats the KV cache, and its deadline."""

    kv: Literal["auto", "migrate", "recompute"] = Field(
        default="auto",
        description="`migrate` moves the KV cache by head slices; `recompute` prefills the token ids again. "
        "`auto` does for each request what costs less by the replica's profile; without a profile it "
        "migrates.",
    )
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Deadline of a switch; after it the old layout resumes.",
    )


class Metrics(Block):
    """Where Prometheus scrapes the replicas' metrics: one address a node."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=253,
        description="Address to listen on; `node` is the node's own, which other machines can reach.",
    )
    port: int | None = Field(
        default=None, ge=1024, le=65535, description="Port, the same on every node. Default: a free one."
    )


class RolloutSpec(Block):
    """The generation stage."""

    footprint: Degree = Field(
        description="Ranks of one replica, all on one node; the widest degree. 1, 2, 4 or 8."
    )
    degrees: Annotated[tuple[Degree, ...], Field(strict=False, min_length=1, max_length=4)] = Field(
        default_factory=lambda fields: degrees_up_to(fields.get("footprint", 1)),
        description="Degrees that the replica can serve in, ascending powers of two. The first is the layout "
        "in which each stage starts, the last is the footprint. Default: every degree up to the footprint.",
    )
    mode: Literal["off", "advise", "enforce"] = Field(
        default="enforce",
        description="`off`: never switch. `advise`: decide and log, but do not switch. `enforce`: switch. "
        'Quote "off" where the job goes through kubectl, which reads a bare off as false.',
    )
    policy: Policy = Field(default=Policy(), description="When to switch; default: the predictor.")
    samples_per_prompt: Positive = Field(description="Responses generated for each prompt.")
    response_tokens: Positive = Field(description="Longest response, in tokens; longer ones are cut.")
    sampling: Sampling = Sampling()
    switch: SwitchSpec = SwitchSpec()
    max_running_requests: Positive | None = Field(
        default=None, description="Most requests that a group decodes at once. Default: by memory."
    )
    kv_tokens: Positive | None = Field(
        default=None,
        description="Size of a rank's KV arena in tokens at the first degree. Default: by memory.",
    )
    profile: NonEmpty | None = Field(
        default=None,
        description="File of the profile to decide by, as `taper profile` writes it; it must have been "
        "measured with this model, device, dtype, footprint and these versions. Default: the one in the "
        "user's cache directory; where none fits, one is measured when the run starts, and saved there.",
    )
    port: int | None = Field(
        default=None,
        ge=1024,
        le=65535,
        description="Port of replica 0's status server; replica k takes port + k. Default: a free one.",
    )
    metrics: Metrics = Field(
        default=Metrics(), description="Where Prometheus scrapes the replicas' metrics; default: loopback."
    )
