"""All objects of an attempt, in the order of their creation; the RayJob comes last.

Invariants (asserted by `tests/operator/manifests/test_attempt.py`):
- every object is labelled with its job and owned by it, except for the claim, which has no owner;
- an object that the RayJob refers to comes before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from taper_api import RLHFJob
from taper_operator.kube.resource import KubeObject, Resource
from taper_operator.manifests.attempt_job import config_map
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    POD_MONITORS,
    RAY_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import DIGEST_ANNOTATION, JobIdentity
from taper_operator.manifests.ray_job import ray_job
from taper_operator.manifests.shared_objects import (
    checkpoints_claim,
    network_policy,
    pod_monitor,
    service_account,
)
from taper_operator.settings.pod_policy import PodPolicy

OwnedObject = tuple[Resource, KubeObject]


def shared_objects(
    job: RLHFJob, identity: JobIdentity, policy: PodPolicy, *, has_pod_monitors: bool
) -> Iterator[OwnedObject]:
    """The objects that all attempts share; kept up to date while one is active."""
    yield SERVICE_ACCOUNTS, with_digest(service_account(identity))
    yield NETWORK_POLICIES, with_digest(network_policy(job, identity, policy))
    if has_pod_monitors:
        yield POD_MONITORS, with_digest(pod_monitor(identity))


def attempt_objects(
    job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy
) -> Iterator[OwnedObject]:
    """The objects that are created once for an attempt and never changed."""
    claim = checkpoints_claim(job, identity)
    if claim is not None:
        yield CLAIMS, claim
    yield CONFIG_MAPS, config_map(job, identity, number, policy)
    yield RAY_JOBS, ray_job(job, identity, number, policy)


def with_digest(obj: KubeObject) -> KubeObject:
    """The object with a digest of its desired state, which defaults set by the API server do not change."""
    digest = hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:16]
    annotations = obj["metadata"].get("annotations", {}) | {DIGEST_ANNOTATION: digest}
    return obj | {"metadata": obj["metadata"] | {"annotations": annotations}}
