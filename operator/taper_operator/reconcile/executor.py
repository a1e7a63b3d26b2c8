"""Carries a plan out: the status first, then the actions in their order, then the events.

It decides nothing. What it cannot do it raises as an `ApiError`, and the rest of the plan is left
to the next one, which sees what was done.

Invariants (asserted by `tests/operator/reconcile/test_executor.py`):
- with a job that has changed since it was seen, nothing at all is done;
- nothing is done after an action that failed, but what happened is told;
- an object of a name that is taken is an error, but for a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, ResourceNotServed
from taper_operator.kube.event import make_event, record_event
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.reconcile.action import Action, Apply, Create, Delete
from taper_operator.reconcile.plan import JobPlan


class Executor:
    """See the module's docstring. instance: the identity of this replica, for events"""

    def __init__(self, writer: ApiServer, *, instance: str, clock: Callable[[], datetime]) -> None:
        self._writer = writer
        self._instance = instance
        self._clock = clock

    def execute(self, plan: JobPlan, resource: KubeObject) -> None:
        """Carry out a plan for a job as it was seen. Raises ApiError: Conflict if it has changed."""
        if plan.status is not None:
            self._writer.apply_status(RLHF_JOBS, _with_status(resource, plan.status))
        try:
            for action in plan.actions:
                self._do(action)
        except ApiError:
            self._record_events(plan, resource)
            raise
        self._record_events(plan, resource)

    def _record_events(self, plan: JobPlan, resource: KubeObject) -> None:
        for job_event in plan.events:
            event = make_event(
                resource,
                kind=job_event.kind,
                reason=job_event.reason,
                action=job_event.action,
                note=job_event.note,
                occasion=job_event.occasion,
                instance=self._instance,
                at=self._clock(),
            )
            record_event(self._writer, event)

    def _do(self, action: Action) -> None:
        match action:
            case Create():
                self._create(action)
            case Apply():
                obj = action.obj
                # The uid: it is this very object that is changed, never one that has taken its name.
                metadata = obj["metadata"] | {"uid": action.uid}
                self._writer.apply(action.resource, obj | {"metadata": metadata})
            case Delete():
                try:
                    self._writer.delete(action.resource, action.key, uid=action.uid)
                except ResourceNotServed:
                    raise
                except NotFound:
                    pass

    def _create(self, action: Create) -> None:
        try:
            self._writer.create(action.resource, action.obj)
        except AlreadyExists as error:
            if not action.may_exist:
                name = action.obj["metadata"]["name"]
                raise Conflict(
                    f"{action.resource} {name} is there already, and not as it was seen"
                ) from error


def _with_status(resource: KubeObject, status: RLHFJobStatus) -> KubeObject:
    """The status onto the job as it was seen: its resourceVersion makes a claim of it."""
    metadata = {name: resource["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    content = status.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"progress", "rollout"}
    )
    return {"metadata": metadata, "status": content}
