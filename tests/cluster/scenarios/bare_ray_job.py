"""A RayJob as Taper's operator creates it, in a namespace without the operator: KubeRay's part alone."""

from __future__ import annotations

from typing import Any

from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.manifests.kinds import PODS, RAY_JOBS

from ...operator.job_objects import as_served, made_for
from ..control_plane.cluster import wait_for
from .job_sandbox import JobSandbox
from .traces import Recorder, State


class BareRayJob:
    """See the module's docstring. Its name is that of the first attempt at the sandbox's job."""

    def __init__(self, sandbox: JobSandbox, recorder: Recorder) -> None:
        self.sandbox = sandbox
        self.name = f"{sandbox.name}-1"
        self._recorder = recorder

    def make(self, **changes: Any) -> None:
        manifest = self.sandbox.manifest()
        obj = made_for(as_served(manifest, namespace=self.sandbox.namespace))[-1][1]
        # No RLHFJob owns it, and its ServiceAccount does not exist.
        del obj["metadata"]["ownerReferences"]
        spec = obj["spec"]["rayClusterSpec"]
        for template in (spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]):
            template["spec"]["serviceAccountName"] = "default"
        obj["spec"] |= {"ttlSecondsAfterFinished": 1} | changes
        self.sandbox.cluster.api.create(RAY_JOBS, obj)

    def wait_for(self, **reported: Any) -> None:
        """Wait until the newest state has these values."""
        wait_for(lambda: reported.items() <= self.newest().items(), 60, why=self.trace)

    def newest(self) -> State:
        return (self.trace() or [{}])[-1]

    def trace(self) -> list[State]:
        return self._recorder.trace(self.name)

    def obj(self) -> KubeObject:
        return self.sandbox.cluster.api.get(RAY_JOBS, ObjectKey(self.sandbox.namespace, self.name))

    def end(self, status: str) -> None:
        self.sandbox.jobs.end(self.obj()["status"]["jobId"], status, "said so")

    def pod(self, kind: str) -> KubeObject:
        """Its head or its worker; after a loss, the replacement."""
        cluster = self.obj()["status"]["rayClusterName"]
        selector = f"ray.io/cluster={cluster},ray.io/node-type={kind}"
        (pod,) = wait_for(lambda: self.sandbox.cluster.all(PODS, self.sandbox.namespace, selector))
        return pod

    def delete(self) -> None:
        self.sandbox.cluster.delete(RAY_JOBS, self.obj())
        self.wait_for(gone=True)
