"""The observed state of a job at one moment: plain values, from caches or fresh from the API server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.kube.json_field import field_at, mappings_at, text_at
from taper_operator.kube.resource import KubeObject, Resource, key_of
from taper_operator.manifests.names import JOB_UID_LABEL
from taper_operator.observation.pod_state import PodState, pod_state
from taper_operator.observation.ray_job_state import RayJobState, ray_job_state

# `too_old`: KubeRay is installed, but its RayJob lacks fields that the operator sets.
KubeRay = Literal["served", "missing", "too_old"]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """resource: the RLHFJob
    ray_jobs, ray_clusters, pods: those labelled with the job's name, also of an earlier job of that name
    departed_pods: such pods that were deleted recently, in their last state
    labelled: other objects with that label, by kind
    """

    resource: KubeObject
    ray_jobs: tuple[KubeObject, ...] = ()
    ray_clusters: tuple[KubeObject, ...] = ()
    pods: tuple[KubeObject, ...] = ()
    departed_pods: tuple[KubeObject, ...] = ()
    labelled: tuple[tuple[Resource, KubeObject], ...] = ()
    kuberay: KubeRay = "served"
    has_pod_monitors: bool = False

    @cached_property
    def status(self) -> RLHFJobStatus:
        """The job's status. Raises ValueError if it is invalid: its counts must not be lost."""
        return RLHFJobStatus.model_validate(self.resource.get("status") or {}, by_alias=True, by_name=False)

    @property
    def uid(self) -> str:
        return str(self.resource["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.resource["metadata"].get("generation", 0))

    @property
    def is_deleted(self) -> bool:
        return field_at(self.resource, "metadata", "deletionTimestamp") is not None

    @cached_property
    def own_ray_jobs(self) -> tuple[RayJobState, ...]:
        return tuple(ray_job_state(obj) for obj in self.ray_jobs if self.is_owner_of(obj))

    @cached_property
    def pod_states(self) -> tuple[PodState, ...]:
        """The pods labelled with the job's name, of all its attempts."""
        return tuple(pod_state(pod) for pod in self.pods)

    def is_owner_of(self, obj: KubeObject) -> bool:
        """Whether this job owns an object, rather than an earlier job of the same name."""
        owners = mappings_at(obj, "metadata", "ownerReferences")
        return any(text_at(owner, "uid") == self.uid for owner in owners)

    def ray_job(self, name: str) -> RayJobState | None:
        """The job's own RayJob of that name."""
        return next((state for state in self.own_ray_jobs if state.name == name), None)

    def pods_of(self, number: int) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pod_states if pod.attempt == number)

    def present_and_departed_pods_of(self, number: int) -> tuple[PodState, ...]:
        """The pods of an attempt, including deleted ones, which may show the reason."""
        own = (
            pod for pod in self.departed_pods if text_at(pod, "metadata", "labels", JOB_UID_LABEL) == self.uid
        )
        departed = (replace(pod_state(pod), is_terminating=True) for pod in own)
        return (*self.pods_of(number), *(pod for pod in departed if pod.attempt == number))

    def found(self, resource: Resource, name: str) -> KubeObject | None:
        """The object of that kind and name, whoever owns it."""
        return next(
            (obj for kind, obj in self.labelled if kind == resource and key_of(obj).name == name), None
        )

    def own(self, resource: Resource) -> Iterable[KubeObject]:
        """The objects of that kind that this job owns."""
        return (obj for kind, obj in self.labelled if kind == resource and self.is_owner_of(obj))
