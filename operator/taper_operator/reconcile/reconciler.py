"""Reconciles a job: observe, plan, execute.

A plan that begins or ends an attempt is made a second time from a fresh read of the API server: the cache may
not have a new pod yet.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from taper_operator.kube.resource import ObjectKey
from taper_operator.observation.observer import Observer
from taper_operator.reconcile.executor import Executor
from taper_operator.reconcile.plan import plan
from taper_operator.settings.pod_policy import PodPolicy


class Reconciler:
    """See the module's docstring.

    policy: returns the current pod policy
    clock: the time of day, in UTC
    """

    def __init__(
        self,
        observer: Observer,
        executor: Executor,
        *,
        policy: Callable[[], PodPolicy],
        clock: Callable[[], datetime],
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._policy = policy
        self._clock = clock

    def __call__(self, key: ObjectKey) -> float | None:
        """Returns the seconds after which to reconcile again. Raises ApiError."""
        observation = self._observer.cached(key)
        if observation is None:
            return None
        policy = self._policy()
        planned = plan(observation, policy, self._clock())
        if planned.needs_fresh_read:
            observation = self._observer.fresh(key)
            if observation is None:
                return None
            planned = plan(observation, policy, self._clock())
        self._executor.execute(planned, observation.resource)
        return planned.requeue_seconds
