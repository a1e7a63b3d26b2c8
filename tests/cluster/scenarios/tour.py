"""A life of a job in which the operator does all that it ever does."""

from __future__ import annotations

from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.manifests.kinds import NETWORK_POLICIES, POD_MONITORS, PODS, RLHF_JOBS, SERVICE_ACCOUNTS
from taper_operator.manifests.names import DIGEST_ANNOTATION

from ..control_plane.cluster import wait_for
from .job_sandbox import JobSandbox


def tour(sandbox: JobSandbox) -> None:
    """Raises AssertionError where something does not happen."""
    changes = {"spec.ttlSecondsAfterFinished": 1}
    sandbox.apply(changes=changes)
    sandbox.wait_for_attempt(1)
    for kind in (SERVICE_ACCOUNTS, NETWORK_POLICIES, POD_MONITORS):
        (obj,) = sandbox.made(kind)
        key = ObjectKey(sandbox.namespace, obj["metadata"]["name"])
        digest = _digest(obj)
        sandbox.cluster.change(kind, key, _forget_digest)
        wait_for(
            lambda kind=kind, key=key, digest=digest: _digest(sandbox.cluster.api.get(kind, key)) == digest
        )
    sandbox.apply(changes=changes | {"spec.suspend": True})
    sandbox.wait_for_status(lambda status: sandbox.condition("Suspended") == "True")
    assert sandbox.made(PODS) == []
    sandbox.apply(changes=changes)
    sandbox.wait_for_attempt(2)
    sandbox.end(2, "SUCCEEDED")
    wait_for(lambda: sandbox.cluster.found(RLHF_JOBS, sandbox.namespace, sandbox.name) is None)
    wait_for(lambda: not sandbox.remains(), 60, why=sandbox.remains)


def _digest(obj: KubeObject) -> str:
    return str(obj["metadata"]["annotations"][DIGEST_ANNOTATION])


def _forget_digest(obj: KubeObject) -> None:
    """As if an operator of other settings had made it."""
    obj["metadata"]["annotations"][DIGEST_ANNOTATION] = "other"
