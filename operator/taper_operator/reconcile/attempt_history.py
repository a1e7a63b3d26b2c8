"""The attempts in a job's status: how one starts, is updated and ends, and what its end counts as.

After a failure the next attempt waits 10 s, 20 s and so on up to six minutes; after a disruption likewise, by
the number of disruptions since the last new checkpoint. The fifth of those counts as a failure: a job that
never reaches its first checkpoint would otherwise restart for ever.

Invariants (asserted by `tests/operator/reconcile/test_attempt_history.py` and `test_plan_simulation.py`):
- `failures` and `disruptions` only ever grow, each by one for an attempt with that outcome;
- at most one attempt is active, and it is the newest;
- the newest ten are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from taper_api.status.attempt import Attempt, Disruption
from taper_api.status.progress import Progress
from taper_api.status.rlhfjob_status import MAX_ATTEMPTS_KEPT, RLHFJobStatus
from taper_operator.kube.timestamp import timestamp
from taper_operator.observation.pod_state import PodState
from taper_operator.observation.ray_job_state import RayJobState
from taper_operator.reconcile.disruption import disruption_seen
from taper_operator.reconcile.verdict import Verdict

FIRST_BACKOFF_SECONDS = 10
LONGEST_BACKOFF_SECONDS = 360
DISRUPTIONS_OF_A_FAILURE = 5


def active_attempt(status: RLHFJobStatus) -> Attempt | None:
    """The active attempt, None if there is none."""
    newest = status.attempts[-1] if status.attempts else None
    return newest if newest is not None and newest.outcome == "Active" else None


def backoff_seconds(times: int) -> int:
    """The wait after this many failures; times is at least 1."""
    # The exponent is bounded before the power is computed.
    return min(LONGEST_BACKOFF_SECONDS, int(FIRST_BACKOFF_SECONDS * 2 ** min(times - 1, 10)))


def with_new_attempt(status: RLHFJobStatus, ray_job: str, now: datetime) -> RLHFJobStatus:
    """The status that claims the next attempt. Its RayJob is created once this is written."""
    assert active_attempt(status) is None, "one attempt at a time"
    number = status.attempt + 1
    attempt = Attempt(
        number=number,
        ray_job=ray_job,
        outcome="Active",
        start_time=timestamp(now),
        first_step=_newest_step(status.attempts),
    )
    return status.model_copy(
        update={
            "attempt": number,
            "attempts": (*status.attempts, attempt)[-MAX_ATTEMPTS_KEPT:],
            "start_time": status.start_time or timestamp(now),
            "next_attempt_time": None,
        }
    )


def with_observed_state(
    status: RLHFJobStatus,
    attempt: Attempt,
    ray_job: RayJobState | None,
    pods: Sequence[PodState],
    progress: Progress | None,
    now: datetime,
) -> RLHFJobStatus:
    """The status with the observed state of the active attempt, which stays active."""
    news: dict[str, str | int | Disruption] = {}
    if ray_job is not None and ray_job.ray_cluster and len(ray_job.ray_cluster) <= 63:
        news["ray_cluster"] = ray_job.ray_cluster
    if progress is not None and progress.attempt == attempt.number:
        news |= _reported_steps(progress)
    disruption = attempt.disruption or disruption_seen(ray_job, pods, timestamp(now))
    if disruption is not None:
        news["disruption"] = disruption
    return _with(status, attempt.model_copy(update=news))


def _reported_steps(progress: Progress) -> dict[str, int]:
    """The checkpoints that an attempt reported."""
    steps = {"first_step": progress.first_step, "last_checkpoint_step": progress.last_checkpoint_step or None}
    return {name: step for name, step in steps.items() if step is not None}


def with_end(status: RLHFJobStatus, attempt: Attempt, end: Verdict, now: datetime) -> RLHFJobStatus:
    """The status with the active attempt ended, and the wait before the next one."""
    row = (
        _disruptions_in_a_row(status, attempt) if end.outcome == "Disrupted" else status.disruptions_in_a_row
    )
    outcome, reason, message = end.outcome, end.reason, end.message
    if outcome == "Disrupted" and row >= DISRUPTIONS_OF_A_FAILURE:
        outcome, row = "Failed", 0
        message = (
            f"disrupted {DISRUPTIONS_OF_A_FAILURE} times without a new checkpoint; last {reason}: {message}"
        )
        reason = "DisruptedTooOften"
    failures = status.failures + (outcome == "Failed")
    times = {"Failed": failures, "Disrupted": row}.get(outcome, 0)
    wait = timestamp(now + timedelta(seconds=backoff_seconds(times))) if times else None
    closed = attempt.model_copy(
        update={"outcome": outcome, "reason": reason, "message": message, "end_time": timestamp(now)}
    )
    return _with(status, closed).model_copy(
        update={
            "failures": failures,
            "disruptions": status.disruptions + (outcome == "Disrupted"),
            "disruptions_in_a_row": row,
            "next_attempt_time": wait,
        }
    )


def _disruptions_in_a_row(status: RLHFJobStatus, attempt: Attempt) -> int:
    """Disruptions since the last new checkpoint, this one included.

    A checkpoint is new if no earlier attempt reached its step: an attempt that only repeats steps makes no
    progress.
    """
    is_further = (attempt.last_checkpoint_step or 0) > (_newest_step(status.attempts[:-1]) or 0)
    return 1 if is_further else status.disruptions_in_a_row + 1


def _newest_step(attempts: Sequence[Attempt]) -> int | None:
    """The latest step among the checkpoints of these attempts."""
    steps = (step for each in attempts for step in (each.first_step, each.last_checkpoint_step))
    return max((step for step in steps if step is not None), default=None)


def _with(status: RLHFJobStatus, attempt: Attempt) -> RLHFJobStatus:
    return status.model_copy(update={"attempts": (*status.attempts[:-1], attempt)})
