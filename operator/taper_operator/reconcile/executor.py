"""Executes a plan: first the status, then the actions in order, then the events.

It decides nothing. An action that fails raises its `ApiError`; the next plan, which observes what was done,
covers the rest.

Invariants (asserted by `tests/operator/reconcile/test_executor.py`):
- nothing at all is done for a job that has changed since it was observed;
- nothing is done after an action that failed, but events are still recorded;
- creating an object whose name is taken is an error, except for a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, ResourceNotServed
from taper_operator.kube.event import make_event, record_event
from taper_operator.kube.resource import KubeObject, with_status
from taper_operator.kube.timestamp import utc_now
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.reconcile.action import Action, Apply, Create, Delete
from taper_operator.reconcile.plan import JobPlan


@dataclass(eq=False)
class Executor:
    """See the module's docstring. instance: the identity of this replica, for events"""

    writer: ApiServer
    _: KW_ONLY
    instance: str
    clock: Callable[[], datetime] = utc_now

    def execute(self, plan: JobPlan, resource: KubeObject) -> None:
        """Execute a plan for a job as it was observed. Raises ApiError: Conflict if the job has changed."""
        if plan.status is not None:
            status = plan.status.model_dump(
                mode="json", by_alias=True, exclude_none=True, exclude={"progress", "rollout"}
            )
            self.writer.apply_status(RLHF_JOBS, with_status(resource, status))
        try:
            for action in plan.actions:
                self._do(action)
        except ApiError:
            self._record_events(plan, resource)
            raise
        self._record_events(plan, resource)

    def _record_events(self, plan: JobPlan, resource: KubeObject) -> None:
        for transition in plan.events:
            event = make_event(resource, transition, instance=self.instance, at=self.clock())
            record_event(self.writer, event)

    def _do(self, action: Action) -> None:
        match action:
            case Create():
                self._create(action)
            case Apply():
                obj = action.obj
                # With the uid, this changes the observed object only, never another of the same name.
                metadata = obj["metadata"] | {"uid": action.uid}
                self.writer.apply(action.resource, obj | {"metadata": metadata})
            case Delete():
                try:
                    self.writer.delete(action.resource, action.key, uid=action.uid)
                except NotFound as error:
                    if isinstance(error, ResourceNotServed):
                        raise

    def _create(self, action: Create) -> None:
        try:
            self.writer.create(action.resource, action.obj)
        except AlreadyExists as error:
            if not action.may_exist:
                name = action.obj["metadata"]["name"]
                raise Conflict(f"{action.resource} {name} exists already, which was not observed") from error
