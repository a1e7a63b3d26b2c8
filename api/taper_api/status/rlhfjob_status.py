"""`status` of an RLHFJob: what the operator has observed. The operator decides by what it observes in the
cluster, not by the status, except for the counts: deleted attempts leave no other trace.

`progress` and `rollout` are written by whichever replica of the operator receives the job's report, under
a field manager of their own; all else by the leader.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block, keyed_by
from taper_api.status.attempt import Attempt
from taper_api.status.condition import Condition, Count, Time
from taper_api.status.progress import Progress, RolloutFigures

MAX_ATTEMPTS_KEPT = 10


class PodCounts(Block):
    """Pods of the current attempt."""

    ready: Count = Field(description="Pods that are ready, the head included.")
    desired: Count = Field(description="Pods that the attempt needs.")


class RLHFJobStatus(Block):
    """State of the job, as the operator has observed it."""

    observed_generation: Count | None = Field(
        default=None, description="Generation of the job that this status describes."
    )
    phase: (
        Literal["Pending", "Queued", "Starting", "Running", "Backoff", "Suspended", "Complete", "Failed"]
        | None
    ) = Field(
        default=None,
        description="The conditions in one word, for people; programs should read the conditions.",
    )
    conditions: Annotated[tuple[Condition, ...], Field(strict=False, max_length=16)] = Field(
        default=(),
        json_schema_extra=keyed_by("type"),
        description="Validated, Admitted, ClusterReady, Running, Complete, Failed, Suspended, Degraded.",
    )
    attempt: Count = Field(default=0, description="Number of the newest attempt; 0 before the first.")
    attempts: Annotated[tuple[Attempt, ...], Field(strict=False, max_length=MAX_ATTEMPTS_KEPT)] = Field(
        default=(),
        json_schema_extra=keyed_by("number"),
        description="The newest attempts, ten at most, by ascending number.",
    )
    failures: Count = Field(default=0, description="Failed attempts; they count against `spec.backoffLimit`.")
    disruptions: Count = Field(default=0, description="Attempts that the cluster ended; they do not count.")
    disruptions_in_a_row: Count = Field(
        default=0,
        description="Disruptions since the last new checkpoint; five in a row count as one failure.",
    )
    pods: PodCounts | None = None
    start_time: Time | None = Field(default=None, description="When the first attempt began.")
    completion_time: Time | None = Field(default=None, description="When the job completed or failed.")
    active_seconds: Count = Field(
        default=0,
        description="Seconds for which it was active before `activeSince`; they count against "
        "`spec.activeDeadlineSeconds`.",
    )
    active_since: Time | None = Field(
        default=None, description="Start of the current active time; absent while the job is not active."
    )
    next_attempt_time: Time | None = Field(
        default=None, description="During a backoff: when the next attempt begins."
    )
    progress: Progress | None = None
    rollout: RolloutFigures | None = Field(default=None, description="Switches and their gain.")
