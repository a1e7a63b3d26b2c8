"""An attempt at a job, as the job's status records it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.status.condition import Count, Message, Reason, Time

ObjectName = Annotated[str, Field(max_length=63)]


class Disruption(Block):
    """How the cluster disrupted an attempt. Recorded when it is observed, before the attempt ends."""

    time: Time = Field(description="When it was observed.")
    reason: Reason = Field(description="In one word, such as `Preempted` or `NodeLost`.")
    message: Message = Field(default="", description="In words, with the pod or node.")


class Attempt(Block):
    """One attempt: a RayJob and its pods."""

    number: Annotated[int, Field(ge=1, le=9999)] = Field(
        description="Number of the attempt, which is also in the name of the directory that it saves to."
    )
    ray_job: ObjectName = Field(description="Name of its RayJob.")
    ray_cluster: ObjectName | None = Field(default=None, description="Name of its RayCluster.")
    outcome: Literal["Active", "Succeeded", "Failed", "Disrupted", "Suspended", "Stopped"] = Field(
        description="How it ended. Only `Failed` counts against `spec.backoffLimit`; `Stopped` means that "
        "`spec.activeDeadlineSeconds` had passed."
    )
    reason: Reason | None = Field(default=None, description="Why it ended, in one word.")
    message: Message = Field(default="", description="Why it ended, in words: the job's first real error.")
    start_time: Time | None = Field(default=None, description="When it began.")
    end_time: Time | None = Field(default=None, description="When it ended.")
    first_step: Count | None = Field(
        default=None,
        description="Step of the checkpoint that it continued from, 0 for none. Until the attempt reports "
        "it, the newest known checkpoint.",
    )
    last_checkpoint_step: Count | None = Field(default=None, description="Step of its newest checkpoint.")
    disruption: Disruption | None = Field(
        default=None, description="How the cluster disrupted it, if it did."
    )
