"""Whether an attempt has ended, how it ended, and whether the job ends with it.

Strategy: what the attempt has achieved comes first, then what its author wants, then why it is gone or
failed. A failure within ten minutes after a disruption is attributed to the disruption. The cause of any
other is in the end of the job's log, which KubeRay copies into the RayJob's message.

Invariants (asserted by `tests/operator/reconcile/test_verdict.py` and `test_failure_cause.py`):
- only SUCCEEDED is success;
- a failure with a disruption in the ten minutes before it is no failure;
- an attempt that was evicted, or whose head was lost, is no failure;
- no log raises, and the cause that is read from it is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from taper_api.job.spec import RLHFJobSpec
from taper_api.status.attempt import Attempt
from taper_api.status.termination_message import INVALID_JOB, MAX_MESSAGE_CHARACTERS, termination_message_in
from taper_operator.kube.timestamp import seconds_between
from taper_operator.observation.ray_job_state import VALIDATION_FAILED, RayJobState
from taper_operator.reconcile.disruption import reason_of

DISRUPTION_WINDOW_SECONDS = 600.0
# Training does not survive the loss of a pod, but it may just be finishing its last step.
DISRUPTION_GRACE_SECONDS = 10.0

Outcome = Literal["Succeeded", "Failed", "Disrupted", "Suspended", "Stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """is_final: another attempt would end like this one"""

    outcome: Outcome
    reason: str
    message: str = ""
    is_final: bool = False


def verdict(
    attempt: Attempt,
    ray_job: RayJobState | None,
    spec: RLHFJobSpec,
    *,
    was_admitted: bool,
    is_past_deadline: bool,
    now: datetime,
) -> Verdict | None:
    """None while the attempt continues."""
    if ray_job is not None and ray_job.has_succeeded:
        return Verdict(outcome="Succeeded", reason="JobSucceeded")
    if is_past_deadline:
        return deadline_verdict(spec)
    if spec.suspend:
        return Verdict(outcome="Suspended", reason="Suspended", message="spec.suspend is true")
    if ray_job is None or ray_job.is_terminating:
        # No trace of it: it has not been created yet.
        if ray_job is None and attempt.ray_cluster is None and not was_admitted:
            return None
        return Verdict(outcome="Disrupted", reason="RayJobDeleted", message=f"{attempt.ray_job} was deleted")
    if ray_job.has_failed:
        return _failure(attempt, ray_job, now)
    if ray_job.is_suspended and was_admitted:
        return Verdict(
            outcome="Disrupted",
            reason="Evicted",
            message="its RayJob was suspended, as Kueue does to evict it",
        )
    disruption = attempt.disruption
    if disruption is not None and seconds_between(disruption.time, now) >= DISRUPTION_GRACE_SECONDS:
        return Verdict(outcome="Disrupted", reason=disruption.reason, message=disruption.message)
    return None


def deadline_verdict(spec: RLHFJobSpec) -> Verdict:
    """The verdict for a job that has been active for as long as it may be."""
    message = f"active for longer than {spec.active_deadline_seconds} s"
    return Verdict(outcome="Stopped", reason="DeadlineExceeded", message=message, is_final=True)


def _failure(attempt: Attempt, ray_job: RayJobState, now: datetime) -> Verdict:
    disruption = attempt.disruption
    if disruption is not None and seconds_between(disruption.time, now) <= DISRUPTION_WINDOW_SECONDS:
        return Verdict(outcome="Disrupted", reason=disruption.reason, message=disruption.message)
    cause = failure_cause(ray_job.message)
    return replace(
        cause,
        reason=reason_of(cause.reason or ray_job.cause, "JobFailed"),
        is_final=cause.is_final or ray_job.deployment_status == VALIDATION_FAILED,
    )


def failure_cause(log: str) -> Verdict:
    """By the termination message of a failed job, or else the end of its log, which gives no reason."""
    message = termination_message_in(log)
    if message is None:
        return Verdict(outcome="Failed", reason="", message=log[-MAX_MESSAGE_CHARACTERS:])
    return Verdict(
        outcome="Failed",
        reason=message.reason,
        message=message.text[:MAX_MESSAGE_CHARACTERS],
        is_final=message.reason == INVALID_JOB,
    )
