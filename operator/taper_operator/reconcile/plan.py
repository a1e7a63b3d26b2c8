"""Plans what to do about a job: a pure function of its observed state, the operator's settings and the time.

Strategy: first settle the active attempt (has it ended, and how), then decide whether the job ends with it,
then whether the next attempt may begin. The status records all that, and the actions follow from the status
alone. The executor writes the status first, and only if the job has not changed since it was observed. So an
attempt's number is claimed before anything is created for it, and no two operators, nor one with an outdated
cache, ever create two. What an operator that dies leaves undone, the next plan does.

An attempt begins only when no pod, RayCluster or RayJob of an earlier one is left, also of an earlier job of
the same name.

Invariants (asserted by `tests/operator/reconcile/test_plan.py` and `test_plan_simulation.py`):
- once its actions are done, planning again gives no more actions;
- no two attempts are ever active, and no RayJob is created while pods of another exist;
- a disruption never counts as a failure, except every fifth in a row without a new checkpoint;
- a job of another manager, or one that is being deleted, is left alone;
- whatever the statuses of RayJobs and pods contain, no plan raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from taper_api import JobError, RLHFJob, job_of_resource
from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.job.spec import OPERATOR_NAME
from taper_api.status.rlhfjob_status import PodCounts, RLHFJobStatus
from taper_operator.kube.event import Transition
from taper_operator.kube.json_field import field_at
from taper_operator.kube.timestamp import seconds_between, seconds_until, timestamp
from taper_operator.manifests.names import identity_of
from taper_operator.observation.observation import Observation
from taper_operator.reconcile.action import Action
from taper_operator.reconcile.attempt_history import (
    active_attempt,
    with_end,
    with_new_attempt,
    with_observed_state,
)
from taper_operator.reconcile.conditions import (
    ConditionInputs,
    Finish,
    conditions,
    holds,
    phase,
    refused_conditions,
)
from taper_operator.reconcile.plan_actions import PlanContext, actions_for
from taper_operator.reconcile.transitions import job_events
from taper_operator.reconcile.verdict import DISRUPTION_GRACE_SECONDS, Verdict, deadline_verdict, verdict
from taper_operator.settings.pod_policy import PodPolicy

# A watch should report a change; this is the fallback.
_WAIT_SECONDS = 30.0
_KUBERAY_SECONDS = 60.0
# So that a deadline has certainly passed when the next plan runs.
_MARGIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """status: to be written first, None if it is unchanged
    requeue_seconds: when to plan again even if nothing changes, None for never
    needs_fresh_read: it begins or ends an attempt, so it must not be based on a cache
    """

    status: RLHFJobStatus | None = None
    events: tuple[Transition, ...] = ()
    actions: tuple[Action, ...] = ()
    requeue_seconds: float | None = None
    needs_fresh_read: bool = False


def plan(observation: Observation, policy: PodPolicy, now: datetime) -> JobPlan:
    """See the module's docstring. Raises ValueError if the job's own status is invalid."""
    manager = field_at(observation.resource, "spec", "managedBy") or OPERATOR_NAME
    if manager != OPERATOR_NAME or observation.is_deleted:
        return JobPlan()
    # The report writer owns these two.
    before = observation.status.model_copy(update={"progress": None, "rollout": None})
    try:
        job = job_of_resource(observation.resource)
    except JobError as error:
        return _rejected(observation, before, str(error), now)
    refusals = "\n".join(str(problem) for problem in policy.refusals(job.spec))
    context = PlanContext(
        observation=observation,
        job=job,
        identity=identity_of(observation.resource),
        policy=policy,
        refusal=("NotAllowed", refusals) if refusals else None,
        now=now,
    )
    status, end = _settled(context, before)
    finish = _finish(context, status, end)
    if finish is not None:
        status = status.model_copy(update={"completion_time": timestamp(now), "next_attempt_time": None})
    elif _may_begin(context, status):
        status = with_new_attempt(status, context.identity.attempt_name(status.attempt + 1), now)
    status = _described(context, status, finish)
    actions = tuple(actions_for(context, status))
    return JobPlan(
        status=None if status == before else status,
        events=tuple(job_events(before, status)),
        actions=actions,
        requeue_seconds=_requeue_seconds(context, status),
        needs_fresh_read=bool(actions) or status.attempt != before.attempt or end is not None,
    )


def _rejected(observation: Observation, before: RLHFJobStatus, message: str, now: datetime) -> JobPlan:
    """The plan for an invalid spec. A running attempt continues: its spec was valid when it began."""
    updated = refused_conditions(before, "InvalidSpec", message, observation.generation, timestamp(now))
    status = before.model_copy(update={"conditions": updated, "observed_generation": observation.generation})
    status = status.model_copy(update={"phase": phase(status)})
    return JobPlan(status=None if status == before else status, events=tuple(job_events(before, status)))


# -- the attempt -----------------------------------------------------------------------


def _settled(context: PlanContext, before: RLHFJobStatus) -> tuple[RLHFJobStatus, Verdict | None]:
    """The status with the active attempt updated, and the attempt's verdict if it has just ended."""
    observation, spec = context.observation, context.job.spec
    is_past_deadline = _seconds_to_deadline(context.job, before, context.now) == 0
    attempt = active_attempt(before)
    if attempt is None:
        is_over = before.completion_time is None and is_past_deadline
        return before, deadline_verdict(spec) if is_over else None
    ray_job = observation.ray_job(attempt.ray_job)
    pods = observation.present_and_departed_pods_of(attempt.number)
    status = with_observed_state(before, attempt, ray_job, pods, observation.status.progress, context.now)
    attempt = status.attempts[-1]
    end = verdict(
        attempt,
        ray_job,
        spec,
        was_admitted=holds(before, "Admitted"),
        is_past_deadline=is_past_deadline,
        now=context.now,
    )
    return (status, None) if end is None else (with_end(status, attempt, end, context.now), end)


def _finish(context: PlanContext, status: RLHFJobStatus, end: Verdict | None) -> Finish | None:
    """How the job has just ended, None if it continues."""
    if status.completion_time is not None or active_attempt(status) is not None:
        return None
    if end is not None and end.outcome == "Succeeded":
        return Finish("Complete", end.reason)
    if end is not None and end.is_final:
        return Finish("Failed", end.reason, end.message)
    newest = status.attempts[-1] if status.attempts else None
    if newest is not None and status.failures > context.job.spec.backoff_limit and newest.outcome == "Failed":
        message = f"{status.failures} attempts failed; the last one: {newest.reason}: {newest.message}"
        return Finish("Failed", "BackoffLimitExceeded", message)
    if status.attempt >= MAX_ATTEMPTS:
        return Finish("Failed", "TooManyAttempts", f"the job has had {MAX_ATTEMPTS} attempts")
    return None


def _may_begin(context: PlanContext, status: RLHFJobStatus) -> bool:
    return (
        active_attempt(status) is None
        and status.completion_time is None
        and not context.job.spec.suspend
        and context.may_create
        and not (status.next_attempt_time and seconds_until(status.next_attempt_time, context.now))
        and not context.has_leftovers
    )


# -- the status ------------------------------------------------------------------------


def _described(context: PlanContext, status: RLHFJobStatus, finish: Finish | None) -> RLHFJobStatus:
    """The status with the fields that follow from the rest of it."""
    observation, spec = context.observation, context.job.spec
    attempt = active_attempt(status)
    ray_job = observation.ray_job(attempt.ray_job) if attempt is not None else None
    inputs = ConditionInputs(
        status=status,
        kuberay=observation.kuberay,
        is_suspended=spec.suspend and status.completion_time is None,
        has_leftovers=context.has_leftovers,
        is_queueing=spec.kueue is not None,
        ray_job=ray_job,
        refusal=context.refusal,
        finish=finish,
    )
    counts = None
    if attempt is not None:
        ready = sum(pod.is_ready for pod in observation.pods_of(attempt.number))
        counts = PodCounts(ready=ready, desired=spec.training.nodes + 1)
    is_waiting = attempt is not None and (ray_job is None or ray_job.is_suspended)
    is_active = status.completion_time is None and not spec.suspend and status.attempt > 0 and not is_waiting
    described = _with_active_time(status, is_active, context.now).model_copy(
        update={
            "conditions": conditions(inputs, observation.generation, timestamp(context.now)),
            "observed_generation": observation.generation,
            "pods": counts,
        }
    )
    return described.model_copy(update={"phase": phase(described)})


def _with_active_time(status: RLHFJobStatus, is_active: bool, now: datetime) -> RLHFJobStatus:
    if is_active == (status.active_since is not None):
        return status
    if is_active:
        return status.model_copy(update={"active_since": timestamp(now)})
    seconds = status.active_seconds + round(_active_seconds(status, now))
    return status.model_copy(update={"active_since": None, "active_seconds": seconds})


def _active_seconds(status: RLHFJobStatus, now: datetime) -> float:
    """Time for which the job has been active without interruption until now."""
    return seconds_between(status.active_since, now) if status.active_since is not None else 0.0


# -- time ------------------------------------------------------------------------------


def _seconds_to_deadline(job: RLHFJob, status: RLHFJobStatus, now: datetime) -> float | None:
    """None where the job has no deadline."""
    limit = job.spec.active_deadline_seconds
    if limit is None:
        return None
    return max(0.0, limit - status.active_seconds - _active_seconds(status, now))


def _requeue_seconds(context: PlanContext, status: RLHFJobStatus) -> float | None:
    if status.completion_time is not None:
        seconds = context.seconds_to_expiry(status)
        return None if seconds is None else seconds + _MARGIN_SECONDS
    now = context.now
    waits: list[float] = []
    deadline = _seconds_to_deadline(context.job, status, now)
    if deadline is not None and status.active_since is not None:
        waits.append(deadline)
    if status.next_attempt_time is not None:
        waits.append(seconds_until(status.next_attempt_time, now) or _WAIT_SECONDS)
    attempt = active_attempt(status)
    if attempt is not None and attempt.disruption is not None:
        waits.append(max(0.0, DISRUPTION_GRACE_SECONDS - seconds_between(attempt.disruption.time, now)))
    if context.observation.kuberay != "served":
        waits.append(_KUBERAY_SECONDS)
    if context.has_leftovers if attempt is None else context.observation.ray_job(attempt.ray_job) is None:
        waits.append(_WAIT_SECONDS)
    return min(waits) + _MARGIN_SECONDS if waits else None
