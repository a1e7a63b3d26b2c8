"""How far a job is, from its own reports: at most one every 15 seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taper_api.base.block import Block
from taper_api.status.condition import Count, Time

Seconds = Annotated[float, Field(ge=0)]


class Report(Block):
    """The report that a part of the status comes from. Only a later report replaces it."""

    attempt: Count = Field(description="Attempt that sent the report.")
    sequence: Count = Field(description="Number of the report within the attempt.")
    time: Time = Field(description="When the report arrived.")


class TrainingFigures(Block):
    """How far the training is."""

    step: Count = Field(description="Steps that are complete.")
    steps: Count = Field(description="Steps in all.")
    seconds_per_step: Seconds | None = Field(default=None, description="Mean duration of the last steps.")
    first_step: Count | None = Field(
        default=None, description="Step of the checkpoint that the attempt continued from; 0 for none."
    )
    last_checkpoint_step: Count | None = Field(default=None, description="Step of the newest checkpoint.")
    reward: float | None = Field(default=None, description="Mean reward of the last step.")


class Progress(TrainingFigures, Report):
    """How far the training is."""

    eta: Time | None = Field(default=None, description="Estimated end of the training, at that pace.")


class ReplicaLayout(Block):
    """The layout that replicas are in."""

    layout: Annotated[str, Field(max_length=64)] = Field(
        description="The layout, its groups in brackets, such as `(0,1)(2)(3)`."
    )
    replicas: Count = Field(description="Number of replicas that are in it.")


class SwitchTotals(Block):
    """Switches and their gain, over all replicas and since the attempt began."""

    layouts: Annotated[tuple[ReplicaLayout, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="Layouts of the replicas, most frequent first."
    )
    switches: Count = Field(default=0, description="Completed switches.")
    aborted_switches: Count = Field(default=0, description="Aborted switches.")
    pause_p50_seconds: Seconds | None = Field(default=None, description="Median of a switch's pause.")
    pause_p99_seconds: Seconds | None = Field(
        default=None, description="99th percentile of a switch's pause."
    )
    saved_gpu_seconds: float | None = Field(
        default=None,
        description="Measured GPU-seconds that switching has saved; negative if it cost more than it gained.",
    )
    regret: float | None = Field(
        default=None, description="Duration of generation divided by the best possible one, minus 1."
    )


class RolloutFigures(SwitchTotals, Report):
    """Switches and their gain, over all replicas and since the attempt began."""
