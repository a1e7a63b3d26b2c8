"""The conditions of a job, and its phase, which follows from them.

Invariants (asserted by `tests/operator/reconcile/test_conditions.py`):
- Running holds only while Ray's own job runs, Complete only after SUCCEEDED;
- `lastTransitionTime` moves only when a condition's status does;
- Complete and Failed never both hold, and once one holds it stays.
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
_ENDS = ("Complete", "Failed")
_MAX_MESSAGE_CHARACTERS = 4_000
_KUBERAY_PROBLEMS: Mapping[str, tuple[str, str]] = {
    "missing": ("KubeRayMissing", "the cluster has no RayJob kind: install KubeRay 1.7 or newer"),
    "too_old": (
        "KubeRayTooOld",
        "the RayJob kind lacks fields that the operator needs: install KubeRay 1.7 or newer",
    ),
}


class ConditionValue(NamedTuple):
    """The value of a condition now."""

    holds: bool
    reason: str
    message: str = ""


class Finish(NamedTuple):
    """How a job has ended: the condition that now holds, and why."""

    condition: Literal["Complete", "Failed"]
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionInputs:
    """What the conditions follow from.

    refusal: reason and message why nothing may be created for the job, None if it may
    ray_job: of the active attempt
    has_leftovers: whether pods, RayJobs or RayClusters of ended attempts are still there
    finish: None while the job continues, and for a job whose end is already in its status
    """

    status: RLHFJobStatus
    kuberay: KubeRay
    is_suspended: bool
    has_leftovers: bool
    is_queueing: bool
    ray_job: RayJobState | None
    refusal: tuple[str, str] | None = None
    finish: Finish | None = None


def conditions(inputs: ConditionInputs, generation: int, now: str) -> tuple[Condition, ...]:
    """All conditions of the job."""
    return _updated(inputs.status, dict(_current_values(inputs)), generation, now)


def refused_conditions(
    status: RLHFJobStatus, reason: str, message: str, generation: int, now: str
) -> tuple[Condition, ...]:
    """The conditions of a job with an invalid spec: all but Validated stay as they were."""
    return _updated(status, {"Validated": ConditionValue(False, reason, message)}, generation, now)


def holds(status: RLHFJobStatus, kind: str) -> bool:
    """Whether a condition of a job is True."""
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def phase(status: RLHFJobStatus) -> Phase:
    """A one-word summary of the conditions."""
    for kind in ("Complete", "Failed", "Suspended", "Running"):
        if holds(status, kind):
            return kind
    if active_attempt(status) is not None:
        return "Starting" if holds(status, "Admitted") else "Queued" if _is_queued(status) else "Pending"
    return "Backoff" if status.next_attempt_time else "Pending"


def _is_queued(status: RLHFJobStatus) -> bool:
    return any(c.type == "Admitted" and c.reason == "Queued" for c in status.conditions)


def _updated(
    status: RLHFJobStatus, values: Mapping[str, ConditionValue], generation: int, now: str
) -> tuple[Condition, ...]:
    """The conditions by type. Those that say how the job has ended no longer change."""
    by_type = {condition.type: condition for condition in status.conditions}
    final = _ENDS if any(holds(status, kind) for kind in _ENDS) else ()
    for kind, value in values.items():
        if kind not in final:
            by_type[kind] = _condition(kind, value, by_type.get(kind), generation, now)
    return tuple(by_type[kind] for kind in sorted(by_type))


def _condition(
    kind: str, value: ConditionValue, old: Condition | None, generation: int, now: str
) -> Condition:
    status: Literal["True", "False"] = "True" if value.holds else "False"
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=since,
        reason=value.reason,
        message=value.message[:_MAX_MESSAGE_CHARACTERS],
    )


def _current_values(inputs: ConditionInputs) -> Iterator[tuple[str, ConditionValue]]:
    yield "Validated", _validated(inputs)
    yield "Admitted", _admitted(inputs)
    yield "ClusterReady", _cluster_ready(inputs)
    yield "Running", _running(inputs)
    yield "Degraded", _degraded(inputs)
    yield "Suspended", _suspended(inputs)
    yield "Complete", _ended("Complete", inputs.finish)
    yield "Failed", _ended("Failed", inputs.finish)


def _ended(kind: str, finish: Finish | None) -> ConditionValue:
    if finish is None or finish.condition != kind:
        return ConditionValue(False, "NotFinished")
    return ConditionValue(True, finish.reason, finish.message)


def _validated(inputs: ConditionInputs) -> ConditionValue:
    if inputs.refusal is not None:
        return ConditionValue(False, *inputs.refusal)
    return ConditionValue(True, "Valid")


def _admitted(inputs: ConditionInputs) -> ConditionValue:
    if active_attempt(inputs.status) is None:
        return ConditionValue(False, "NoAttempt")
    if inputs.ray_job is None:
        return ConditionValue(False, "NotCreated", "the RayJob has not been created yet")
    if inputs.ray_job.is_suspended:
        return ConditionValue(False, "Queued", "the RayJob is suspended until Kueue admits it")
    return ConditionValue(True, "Admitted" if inputs.is_queueing else "NotQueued")


def _cluster_ready(inputs: ConditionInputs) -> ConditionValue:
    if inputs.kuberay != "served":
        return ConditionValue(False, *_KUBERAY_PROBLEMS[inputs.kuberay])
    if inputs.ray_job is None:
        return ConditionValue(False, "WaitingForPods" if inputs.has_leftovers else "NoCluster")
    if inputs.ray_job.has_all_pods:
        return ConditionValue(True, "AllPodsReady")
    return ConditionValue(False, "PodsNotReady", _counts(inputs.ray_job))


def _running(inputs: ConditionInputs) -> ConditionValue:
    if inputs.ray_job is not None and inputs.ray_job.is_running:
        return ConditionValue(True, "JobRunning")
    return ConditionValue(False, "NotRunning")


def _degraded(inputs: ConditionInputs) -> ConditionValue:
    ray_job, attempt = inputs.ray_job, active_attempt(inputs.status)
    if ray_job is None or not ray_job.is_running:
        return ConditionValue(False, "NotRunning")
    if attempt is not None and attempt.disruption is not None:
        return ConditionValue(True, attempt.disruption.reason, attempt.disruption.message)
    if ray_job.is_head_ready is False:
        return ConditionValue(True, "HeadNotReady")
    if ray_job.ready_workers < ray_job.desired_workers:
        return ConditionValue(True, "PodsMissing", _counts(ray_job))
    return ConditionValue(False, "AsDesired")


def _suspended(inputs: ConditionInputs) -> ConditionValue:
    if not inputs.is_suspended:
        return ConditionValue(False, "NotSuspended")
    if inputs.has_leftovers:
        return ConditionValue(False, "Suspending", "its pods are still terminating")
    return ConditionValue(True, "Suspended", "spec.suspend is true")


def _counts(ray_job: RayJobState) -> str:
    return f"{ray_job.ready_workers} of {ray_job.desired_workers} pods of the GPU pool are ready"
