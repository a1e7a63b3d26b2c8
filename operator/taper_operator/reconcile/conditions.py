"""The conditions of a job, and its phase, which is read off them.

Invariants (asserted by `tests/operator/reconcile/test_conditions.py`):
- Running holds only while Ray's own job runs, Complete only after SUCCEEDED;
- `lastTransitionTime` moves only when a condition's status does;
- Complete and Failed never both hold, and never cease to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from taper_api.status.condition import Condition
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.observation.observation import KubeRay
from taper_operator.observation.ray_job_state import RayJobState
from taper_operator.reconcile.attempt_history import active_attempt

Phase = Literal["Pending", "Queued", "Starting", "Running", "Backoff", "Suspended", "Complete", "Failed"]
_MAX_MESSAGE_CHARACTERS = 4_000
_KUBERAY_PROBLEMS: Mapping[str, tuple[str, str]] = {
    "missing": ("KubeRayMissing", "the API server knows no RayJob: install KubeRay 1.7 or newer"),
    "too_old": (
        "KubeRayTooOld",
        "KubeRay's RayJob lacks fields that are needed: install KubeRay 1.7 or newer",
    ),
}


class Said(NamedTuple):
    """What is said of a condition now."""

    holds: bool
    reason: str
    message: str = ""


class Finish(NamedTuple):
    """How a job has ended."""

    has_succeeded: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the conditions are read off.

    refusal: why nothing may be made for the job, None if it may
    ray_job: of the active attempt
    has_remains: whether pods, RayJobs or RayClusters of ended attempts are still there
    finish: None while the job goes on, and for a job whose end is in its status already
    """

    status: RLHFJobStatus
    kuberay: KubeRay
    is_suspended: bool
    has_remains: bool
    is_queueing: bool
    ray_job: RayJobState | None
    refusal: tuple[str, str] | None = None
    finish: Finish | None = None


def conditions(standing: Standing, generation: int, now: str) -> tuple[Condition, ...]:
    """All conditions of the job."""
    before = {condition.type: condition for condition in standing.status.conditions}
    said = {kind: what for kind, what in _said(standing) if kind not in _lasting(before)}
    kept = [condition for kind, condition in before.items() if kind not in said]
    told = [_condition(kind, what, before.get(kind), generation, now) for kind, what in said.items()]
    return tuple(sorted([*kept, *told], key=lambda condition: condition.type))


def holds(status: RLHFJobStatus, kind: str) -> bool:
    """Whether a condition of a job holds."""
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def phase(status: RLHFJobStatus) -> Phase:
    """The conditions in one word."""
    for kind in ("Complete", "Failed", "Suspended", "Running"):
        if holds(status, kind):
            return kind
    if active_attempt(status) is not None:
        return "Starting" if holds(status, "Admitted") else "Queued" if _is_queued(status) else "Pending"
    return "Backoff" if status.next_attempt_time else "Pending"


def _is_queued(status: RLHFJobStatus) -> bool:
    return any(c.type == "Admitted" and c.reason == "Queued" for c in status.conditions)


def _lasting(before: Mapping[str, Condition]) -> tuple[str, ...]:
    """How a job has ended does not change any more."""
    ended = any(before[kind].status == "True" for kind in ("Complete", "Failed") if kind in before)
    return ("Complete", "Failed") if ended else ()


def _condition(kind: str, what: Said, before: Condition | None, generation: int, now: str) -> Condition:
    status: Literal["True", "False"] = "True" if what.holds else "False"
    since = before.last_transition_time if before is not None and before.status == status else now
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=since,
        reason=what.reason,
        message=what.message[:_MAX_MESSAGE_CHARACTERS],
    )


def _said(standing: Standing) -> Iterator[tuple[str, Said]]:
    yield "Validated", _validated(standing)
    yield "Admitted", _admitted(standing)
    yield "ClusterReady", _cluster_ready(standing)
    yield "Running", _running(standing)
    yield "Degraded", _degraded(standing)
    yield "Suspended", _suspended(standing)
    finish = standing.finish
    ongoing = Said(False, "NotFinished")
    yield (
        "Complete",
        Said(True, finish.reason, finish.message) if finish and finish.has_succeeded else ongoing,
    )
    yield (
        "Failed",
        Said(True, finish.reason, finish.message) if finish and not finish.has_succeeded else ongoing,
    )


def _validated(standing: Standing) -> Said:
    if standing.refusal is not None:
        return Said(False, *standing.refusal)
    return Said(True, "Valid")


def _admitted(standing: Standing) -> Said:
    if active_attempt(standing.status) is None:
        return Said(False, "NoAttempt")
    if standing.ray_job is None:
        return Said(False, "NotCreated", "the RayJob is yet to be made")
    if standing.ray_job.is_suspended:
        return Said(False, "Queued", "the RayJob is suspended until Kueue admits it")
    return Said(True, "Admitted" if standing.is_queueing else "NotQueued")


def _cluster_ready(standing: Standing) -> Said:
    if standing.kuberay != "served":
        return Said(False, *_KUBERAY_PROBLEMS[standing.kuberay])
    if standing.ray_job is None:
        waits = "WaitingForPods" if standing.has_remains else "NoCluster"
        return Said(False, waits)
    if standing.ray_job.has_all_pods:
        return Said(True, "AllPodsReady")
    return Said(False, "PodsNotReady", _counts(standing.ray_job))


def _running(standing: Standing) -> Said:
    if standing.ray_job is not None and standing.ray_job.is_running:
        return Said(True, "JobRunning")
    return Said(False, "NotRunning")


def _degraded(standing: Standing) -> Said:
    ray_job, attempt = standing.ray_job, active_attempt(standing.status)
    if ray_job is None or not ray_job.is_running:
        return Said(False, "NotRunning")
    if attempt is not None and attempt.disruption is not None:
        return Said(True, attempt.disruption.reason, attempt.disruption.message)
    if ray_job.is_head_ready is False:
        return Said(True, "HeadNotReady")
    if ray_job.ready_workers < ray_job.desired_workers:
        return Said(True, "PodsMissing", _counts(ray_job))
    return Said(False, "AsDesired")


def _suspended(standing: Standing) -> Said:
    if not standing.is_suspended:
        return Said(False, "NotSuspended")
    if standing.has_remains:
        return Said(False, "Suspending", "pods are still there")
    return Said(True, "Suspended", "spec.suspend is true")


def _counts(ray_job: RayJobState) -> str:
    return f"{ray_job.ready_workers} of {ray_job.desired_workers} pods of the GPU pool are ready"


def refused_conditions(
    status: RLHFJobStatus, reason: str, message: str, generation: int, now: str
) -> tuple[Condition, ...]:
    """The conditions of a job that cannot be read: all but Validated are as they were."""
    before = {condition.type: condition for condition in status.conditions}
    told = _condition("Validated", Said(False, reason, message), before.get("Validated"), generation, now)
    before["Validated"] = told
    return tuple(sorted(before.values(), key=lambda condition: condition.type))
