"""The transitions between two statuses of a job, as events.

Invariant (asserted by `tests/operator/reconcile/test_transitions.py`): between equal statuses there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.status.attempt import Attempt
from taper_api.status.condition import Condition
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.kube.event import Transition

_WARNINGS = frozenset({"Failed", "Degraded"})
_REPORTED = ("Running", "Degraded", "Suspended", "Complete", "Failed")


def job_events(before: RLHFJobStatus, after: RLHFJobStatus) -> Iterator[Transition]:
    """The events from one status to the next."""
    known = {attempt.number: attempt for attempt in before.attempts}
    for attempt in after.attempts:
        old = known.get(attempt.number)
        if old is None:
            yield _attempt_event("AttemptStarted", f"attempt {attempt.number}: {attempt.ray_job}", attempt)
        if attempt.outcome != "Active" and (old is None or old.outcome == "Active"):
            note = f"attempt {attempt.number}: {attempt.reason}: {attempt.message}"
            yield _attempt_event(f"Attempt{attempt.outcome}", note, attempt)
        if attempt.disruption is not None and (old is None or old.disruption is None):
            note = f"attempt {attempt.number}: {attempt.disruption.reason}: {attempt.disruption.message}"
            yield _attempt_event("DisruptionSeen", note, attempt)
    yield from _of_conditions(before, after)


def _of_conditions(before: RLHFJobStatus, after: RLHFJobStatus) -> Iterator[Transition]:
    old = {condition.type: condition.status for condition in before.conditions}
    for condition in after.conditions:
        if condition.status == old.get(condition.type):
            continue
        if condition.type in _REPORTED and condition.status == "True":
            yield _condition(condition, condition.type, is_warning=condition.type in _WARNINGS)
        elif condition.type == "Validated" and condition.status == "False":
            yield _condition(condition, condition.reason, is_warning=True)


def _attempt_event(reason: str, note: str, attempt: Attempt) -> Transition:
    is_warning = reason in ("AttemptFailed", "AttemptDisrupted", "AttemptStopped", "DisruptionSeen")
    return Transition(
        kind="Warning" if is_warning else "Normal",
        reason=reason,
        action="Attempt",
        note=note,
        occasion=str(attempt.number),
    )


def _condition(condition: Condition, reason: str, *, is_warning: bool) -> Transition:
    return Transition(
        kind="Warning" if is_warning else "Normal",
        reason=reason,
        action="Reconcile",
        note=f"{condition.reason}: {condition.message}" if condition.message else condition.reason,
        occasion=condition.last_transition_time,
    )
