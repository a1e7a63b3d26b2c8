"""A life of a job in which the operator does all that it ever does."""

from __future__ import annotations

from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.manifests.kinds import NETWORK_POLICIES, POD_MONITORS, PODS, RLHF_JOBS, SERVICE_ACCOUNTS
from taper_operator.manifests.names import DIGEST_ANNOTATION

from ..control_plane.cluster import wait_for
from .job_sandbox import Scene


def tour(scene: Scene) -> None:
    """Raises AssertionError where something does not happen."""
    changes = {"spec.ttlSecondsAfterFinished": 1}
    scene.apply(changes=changes)
    scene.wait_for_attempt(1)
    for kind in (SERVICE_ACCOUNTS, NETWORK_POLICIES, POD_MONITORS):
        (obj,) = scene.made(kind)
        key = ObjectKey(scene.namespace, obj["metadata"]["name"])
        digest = _digest(obj)
        scene.cluster.change(kind, key, _forget_digest)
        wait_for(
            lambda kind=kind, key=key, digest=digest: _digest(scene.cluster.api.get(kind, key)) == digest
        )
    scene.apply(changes=changes | {"spec.suspend": True})
    scene.wait_for_status(lambda status: scene.condition("Suspended") == "True")
    assert scene.made(PODS) == []
    scene.apply(changes=changes)
    scene.wait_for_attempt(2)
    scene.end(2, "SUCCEEDED")
    wait_for(lambda: scene.cluster.found(RLHF_JOBS, scene.namespace, scene.name) is None)
    wait_for(lambda: not scene.remains(), 60, why=scene.remains)


def _digest(obj: KubeObject) -> str:
    return str(obj["metadata"]["annotations"][DIGEST_ANNOTATION])


def _forget_digest(obj: KubeObject) -> None:
    """As if an operator of other settings had made it."""
    obj["metadata"]["annotations"][DIGEST_ANNOTATION] = "other"
