"""Reconciles a job: observe, plan, execute.

A plan that begins or ends an attempt is made a second time from a fresh read of the API server: the cache may
not have a new pod yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from taper_operator.kube.resource import ObjectKey
from taper_operator.kube.timestamp import utc_now
from taper_operator.observation.observer import Observer
from taper_operator.reconcile.executor import Executor
from taper_operator.reconcile.plan import plan
from taper_operator.settings.pod_policy import PodPolicy


@dataclass(eq=False)
class Reconciler:
    """See the module's docstring.

    policy: returns the current pod policy
    clock: the time of day, in UTC
    """

    observer: Observer
    executor: Executor
    _: KW_ONLY
    policy: Callable[[], PodPolicy]
    clock: Callable[[], datetime] = utc_now

    def __call__(self, key: ObjectKey) -> float | None:
        """Returns the seconds after which to reconcile again. Raises ApiError."""
        observation = self.observer.cached(key)
        if observation is None:
            return None
        policy = self.policy()
        planned = plan(observation, policy, self.clock())
        if planned.needs_fresh_read:
            observation = self.observer.fresh(key)
            if observation is None:
                return None
            planned = plan(observation, policy, self.clock())
        self.executor.execute(planned, observation.resource)
        return planned.requeue_seconds
