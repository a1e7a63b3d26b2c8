"""The actions that follow from a job's status: what to create, update and delete for it.

Invariants (asserted by `tests/operator/reconcile/test_plan.py`):
- objects of others are never changed or deleted, and nothing is created where another owns a needed name;
- a RayJob is created only for the active attempt, once, and only when nothing of another attempt is left;
- the RayJob of a job's last attempt is kept for inspection until the job is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from taper_api import RLHFJob
from taper_api.status.attempt import Attempt
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.kube.json_field import field_at, text_at
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.timestamp import seconds_between
from taper_operator.manifests.attempt import OwnedObject, attempt_objects, shared_objects
from taper_operator.manifests.kinds import CLAIMS, CONFIG_MAPS, RAY_JOBS, RLHF_JOBS
from taper_operator.manifests.names import DIGEST_ANNOTATION, JobIdentity
from taper_operator.observation.observation import Observation
from taper_operator.observation.ray_job_state import RayJobState
from taper_operator.reconcile.action import Action, Apply, Create, Delete
from taper_operator.reconcile.attempt_history import active_attempt
from taper_operator.settings.pod_policy import PodPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What a plan is made from. refusal: reason and message why nothing may be created for the job"""

    observation: Observation
    job: RLHFJob
    identity: JobIdentity
    policy: PodPolicy
    refusal: tuple[str, str] | None
    now: datetime

    @property
    def may_create(self) -> bool:
        return self.refusal is None and self.observation.kuberay == "served"

    @property
    def has_leftovers(self) -> bool:
        """Whether anything runs, or could still run, under the job's name."""
        seen = self.observation
        return bool(seen.ray_jobs or seen.ray_clusters or seen.pods)

    def seconds_to_expiry(self, status: RLHFJobStatus) -> float | None:
        """How long a finished job is still kept; None if it has not finished, or is kept for ever."""
        ttl = self.job.spec.ttl_seconds_after_finished
        if ttl is None or status.completion_time is None:
            return None
        return max(0.0, ttl - seconds_between(status.completion_time, self.now))


def actions_for(context: PlanContext, status: RLHFJobStatus) -> Iterator[Action]:
    """The actions, in their order."""
    attempt = active_attempt(status)
    yield from _deletions(context, status, attempt)
    if attempt is not None and context.may_create:
        yield from _creations(context, attempt)
    if context.seconds_to_expiry(status) == 0:
        metadata = context.observation.resource["metadata"]
        yield Delete(resource=RLHF_JOBS, key=key_of(context.observation.resource), uid=metadata["uid"])


def _deletions(context: PlanContext, status: RLHFJobStatus, attempt: Attempt | None) -> Iterator[Action]:
    for ray_job in context.observation.own_ray_jobs:
        is_active = attempt is not None and ray_job.name == attempt.ray_job
        if not is_active and not ray_job.is_terminating and not _is_kept(ray_job, status):
            key = ObjectKey(context.identity.namespace, ray_job.name)
            yield Delete(resource=RAY_JOBS, key=key, uid=ray_job.uid)
    newest = context.identity.attempt_name(status.attempt) if status.attempt else ""
    for obj in context.observation.own(CONFIG_MAPS):
        if key_of(obj).name != newest and field_at(obj, "metadata", "deletionTimestamp") is None:
            yield Delete(resource=CONFIG_MAPS, key=key_of(obj), uid=text_at(obj, "metadata", "uid"))


def _is_kept(ray_job: RayJobState, status: RLHFJobStatus) -> bool:
    """KubeRay deletes the cluster of an ended RayJob by itself; the RayJob shows why it ended."""
    if status.completion_time is None or ray_job.name != status.attempts[-1].ray_job:
        return False
    return ray_job.has_succeeded or ray_job.is_torn_down_by_kuberay


def _creations(context: PlanContext, attempt: Attempt) -> Iterator[Action]:
    observation, job, identity, policy = context.observation, context.job, context.identity, context.policy
    shared = list(shared_objects(job, identity, policy, has_pod_monitors=observation.has_pod_monitors))
    once: list[OwnedObject] = []
    if observation.ray_job(attempt.ray_job) is None:
        if context.has_leftovers:
            return
        once = list(attempt_objects(job, identity, attempt.number, policy))
    if any(_is_taken(observation, each) for each in (*shared, *once)):
        return
    for resource, obj in shared:
        yield from _kept_up_to_date(observation, resource, obj)
    for resource, obj in once:
        if observation.found(resource, key_of(obj).name) is None:
            yield Create(resource=resource, obj=obj, may_exist=resource == CLAIMS)


def _is_taken(observation: Observation, owned: OwnedObject) -> bool:
    """Whether the name is used by another's object, or by one that is terminating. Nobody owns a claim."""
    resource, obj = owned
    found = observation.found(resource, key_of(obj).name)
    if found is None or resource == CLAIMS:
        return False
    return not observation.is_owner_of(found) or field_at(found, "metadata", "deletionTimestamp") is not None


def _kept_up_to_date(observation: Observation, resource: Resource, obj: KubeObject) -> Iterator[Action]:
    found = observation.found(resource, key_of(obj).name)
    if found is None:
        yield Create(resource=resource, obj=obj)
        return
    digest = ("metadata", "annotations", DIGEST_ANNOTATION)
    if text_at(found, *digest) != text_at(obj, *digest):
        yield Apply(resource=resource, obj=obj, uid=text_at(found, "metadata", "uid"))
