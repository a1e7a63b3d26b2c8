"""Gathers the observed state of a job: from the caches, or fresh from the API server.

A fresh read covers the job, its RayJobs, RayClusters and pods: what runs, or could run. Other objects come
from the caches: these catch up between two reconciles of a job, and creating an object twice fails anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import ApiError, NotFound
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.manifests.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RLHF_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import JOB_LABEL
from taper_operator.observation.kuberay_support import NAME, kuberay_of
from taper_operator.observation.observation import KubeRay, Observation

OWNED_KINDS = (CONFIG_MAPS, SERVICE_ACCOUNTS, NETWORK_POLICIES, POD_MONITORS)
# The CRD is megabytes large, and changes only when KubeRay is upgraded.
_DEFINITION_SECONDS = 600.0
_MISSING_SECONDS = 15.0


@dataclass(eq=False)
class Observer:
    """See the module's docstring. Its methods may be called from any thread.

    is_served: whether the API server serves a kind, as its reflectors last saw
    clock: monotonic seconds
    """

    reader: ApiServer
    caches: Mapping[Resource, ObjectCache]
    _: KW_ONLY
    is_served: Callable[[Resource], bool]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._kuberay: KubeRay = "missing"
        self._kuberay_until = float("-inf")

    def cached(self, key: ObjectKey) -> Observation | None:
        """The job from the caches, None if it does not exist."""
        resource = self.caches[RLHF_JOBS].get(key)
        return None if resource is None else self._observation(resource, self._from_cache)

    def fresh(self, key: ObjectKey) -> Observation | None:
        """The job, and what runs of it, from the API server. None if it does not exist. Raises ApiError."""
        try:
            resource = self.reader.get(RLHF_JOBS, key)
        except NotFound:
            return None
        return self._observation(resource, self._from_api_server)

    def _observation(
        self, resource: KubeObject, find: Callable[[Resource, ObjectKey], list[KubeObject]]
    ) -> Observation:
        job = key_of(resource)
        return Observation(
            resource=resource,
            ray_jobs=tuple(find(RAY_JOBS, job)),
            ray_clusters=tuple(find(RAY_CLUSTERS, job)),
            pods=tuple(find(PODS, job)),
            departed_pods=tuple(self.caches[PODS].departed(job)),
            labelled=tuple((kind, obj) for kind in OWNED_KINDS for obj in self._from_cache(kind, job)),
            kuberay=self._kuberay_now(),
            has_pod_monitors=self.is_served(POD_MONITORS),
        )

    def _from_cache(self, kind: Resource, job: ObjectKey) -> list[KubeObject]:
        return self.caches[kind].of(job)

    def _from_api_server(self, kind: Resource, job: ObjectKey) -> list[KubeObject]:
        if not self.is_served(kind):
            return []
        return self.reader.list(kind, namespace=job.namespace, label_selector=f"{JOB_LABEL}={job.name}").items

    def _kuberay_now(self) -> KubeRay:
        with self._lock:
            if not (self.is_served(RAY_JOBS) and self.is_served(RAY_CLUSTERS)):
                self._kuberay_until = float("-inf")
                return "missing"
            if self.clock() >= self._kuberay_until:
                self._kuberay = self._installed_kuberay()
                is_good = self._kuberay == "served"
                self._kuberay_until = self.clock() + (_DEFINITION_SECONDS if is_good else _MISSING_SECONDS)
            return self._kuberay

    def _installed_kuberay(self) -> KubeRay:
        try:
            return kuberay_of(self.reader.get(DEFINITIONS, ObjectKey("", NAME)))
        except ApiError:
            # The CRD is not readable, or not now, but RayJobs are served. If KubeRay is too old, the API
            # server rejects the RayJob when it is created.
            return "served"
