"""An attempt at a job, as the job's status remembers it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.status.condition import Count, Message, Reason, Time

ObjectName = Annotated[str, Field(max_length=63)]


class Disruption(Block):
    """What the cluster did to an attempt. It is recorded when it is seen, before the attempt ends."""

    time: Time = Field(description="When it was seen.")
    reason: Reason = Field(description="What it was, in one word, such as `Preempted` or `NodeLost`.")
    message: Message = Field(default="", description="What it was, in words, with the pod or node.")


class Attempt(Block):
    """One attempt: a RayJob and the pods it had."""

    number: Annotated[int, Field(ge=1, le=9999)] = Field(
        description="Its number, which also fences the directory that it saves to."
    )
    ray_job: ObjectName = Field(description="Name of its RayJob.")
    ray_cluster: ObjectName | None = Field(default=None, description="Name of its RayCluster.")
    outcome: Literal["Active", "Succeeded", "Failed", "Disrupted", "Suspended", "Stopped"] = Field(
        description="How it ended. `Failed` is what counts against `spec.backoffLimit`; `Stopped` is by "
        "`spec.activeDeadlineSeconds`."
    )
    reason: Reason | None = Field(default=None, description="Why it ended, in one word.")
    message: Message = Field(default="", description="Why it ended, in words: the job's first real error.")
    start_time: Time | None = Field(default=None, description="When it was begun.")
    end_time: Time | None = Field(default=None, description="When it had ended.")
    first_step: Count | None = Field(
        default=None,
        description="Step of the checkpoint that it went on from, 0 for none: until it tells that itself, "
        "the newest that is known of.",
    )
    last_checkpoint_step: Count | None = Field(default=None, description="Step of its newest checkpoint.")
    disruption: Disruption | None = Field(
        default=None, description="What the cluster did to it, if anything."
    )
