"""How far a job is: what the job itself tells, at most one report every 15 seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taper_api.base.block import Block
from taper_api.status.condition import Count, Time

Seconds = Annotated[float, Field(ge=0)]


class Report(Block):
    """Which report a part of the status is from: a later one replaces it, never an earlier."""

    attempt: Count = Field(description="Attempt that told it.")
    sequence: Count = Field(description="Number of the report within the attempt.")
    time: Time = Field(description="When it was told.")


class TrainingFigures(Block):
    """How far the training is, in the job's own words."""

    step: Count = Field(description="Steps that are done.")
    steps: Count = Field(description="Steps in all.")
    seconds_per_step: Seconds | None = Field(default=None, description="Mean of the last steps.")
    first_step: Count | None = Field(
        default=None, description="Step of the checkpoint that the attempt went on from; 0 for none."
    )
    last_checkpoint_step: Count | None = Field(default=None, description="Step of the newest checkpoint.")
    reward: float | None = Field(default=None, description="Mean reward of the last step.")


class Progress(TrainingFigures, Report):
    """How far the training is."""

    eta: Time | None = Field(default=None, description="When it will be done, at that pace.")


class ReplicaLayout(Block):
    """The layout that replicas are in."""

    layout: Annotated[str, Field(max_length=64)] = Field(
        description="The layout, its groups in brackets, such as `(0,1)(2)(3)`."
    )
    replicas: Count = Field(description="Number of replicas that are in it.")


class SwitchFigures(Block):
    """What switching does for the job, over all replicas and since the attempt began."""

    layouts: Annotated[tuple[ReplicaLayout, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="The layouts that replicas are in, most frequent first."
    )
    switches: Count = Field(default=0, description="Switches that were carried out.")
    aborted_switches: Count = Field(default=0, description="Switches that were given up.")
    pause_p50_seconds: Seconds | None = Field(default=None, description="Median of a switch's pause.")
    pause_p99_seconds: Seconds | None = Field(default=None, description="99th percentile of it.")
    saved_gpu_seconds: float | None = Field(
        default=None, description="GPU-seconds that switching has saved, as measured; negative where it lost."
    )
    regret: float | None = Field(
        default=None, description="Time taken by generation over the best possible, minus 1."
    )


class RolloutFigures(SwitchFigures, Report):
    """What switching does for the job, over all replicas and since the attempt began."""
