"""A sandbox for a scenario: its own jobs, and nodes that run only their pods."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from taper_operator.kube.errors import Forbidden
from taper_operator.kube.resource import EVENTS, KubeObject, ObjectKey, Resource
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RLHF_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import ATTEMPT_LABEL, JOB_LABEL, ROLE_LABEL

from ...api.rule_violations import GONE, broken
from ..control_plane.cluster import NODES, PRIORITY_CLASSES, Cluster, condition, wait_for
from ..fakes.jobs_api import ScriptedJobs
from .scenarios import SharedOperator, register

_NUMBERS = itertools.count()
SANDBOX_LABEL = "tests/sandbox"
OWNED_KINDS = (
    RAY_JOBS,
    RAY_CLUSTERS,
    PODS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    NETWORK_POLICIES,
    POD_MONITORS,
)


class JobSandbox:
    """See the module's docstring. Its jobs' names begin with its own name; methods default to the first job.

    jobs: runs the jobs that RayJobs submit
    """

    def __init__(
        self, cluster: Cluster, jobs: ScriptedJobs, namespace: str, name: str, *, num_nodes: int = 1
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.jobs = jobs
        self.nodes: list[str] = []
        for _ in range(num_nodes):
            self.new_node()

    @property
    def selector(self) -> dict[str, str]:
        """Selects this sandbox's nodes."""
        return {SANDBOX_LABEL: f"{self.namespace}-{self.name}"}

    def new_node(self) -> str:
        """A node on which this sandbox's pods may run."""
        self.nodes.append(self.cluster.new_node(self.selector))
        return self.nodes[-1]

    def delete_node(self, name: str) -> None:
        """As a cloud provider does."""
        node = self.cluster.found(NODES, "", name)
        if node is not None:
            self.cluster.delete(NODES, node)

    def preempt(self) -> None:
        """Create a pod that needs a whole node and has the highest priority."""
        self.cluster.ensure(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 1000})
        context = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        amounts = {"limits": {"nvidia.com/gpu": "8"}}
        pod = {
            "metadata": {"name": f"{self.name}-urgent", "namespace": self.namespace},
            "spec": {
                "priorityClassName": "urgent",
                "nodeSelector": self.selector,
                "containers": [{"name": "a", "image": "a", "resources": amounts, "securityContext": context}],
            },
        }

        def is_made() -> bool:
            # Admission sees a new PriorityClass a moment later.
            with suppress(Forbidden):
                self.cluster.ensure(PODS, pod)
                return True
            return False

        wait_for(is_made)

    # -- a job -----------------------------------------------------------------------------

    def apply(self, name: str = "", changes: dict[str, Any] | None = None) -> KubeObject:
        """As `kubectl apply --server-side` does; changes are at dotted paths."""
        return self.cluster.api.apply(RLHF_JOBS, self.manifest(name, changes))

    def manifest(self, name: str = "", changes: dict[str, Any] | None = None) -> KubeObject:
        """A job whose pods run on this sandbox's nodes."""
        base = {
            "metadata.name": name or self.name,
            "metadata.namespace": self.namespace,
            "spec.volumes.checkpoints": {"size": "1Gi"},
            "spec.volumes.modelCache": GONE,
            "spec.nodePools.head.nodeSelector": self.selector,
            "spec.nodePools.gpu.nodeSelector": self.selector,
        }
        return broken(base | (changes or {}))

    def job(self, name: str = "") -> KubeObject:
        return self.cluster.api.get(RLHF_JOBS, ObjectKey(self.namespace, name or self.name))

    def status(self, name: str = "") -> dict[str, Any]:
        """Its status, empty at first."""
        status: dict[str, Any] = self.job(name).get("status", {})
        return status

    def wait_for_phase(self, phase: str, seconds: float = 60.0, name: str = "") -> dict[str, Any]:
        """Its status when it is in that phase."""
        return self.wait_for_status(lambda status: status.get("phase") == phase, seconds, name)

    def wait_for_status(self, holds: Any, seconds: float = 60.0, name: str = "") -> dict[str, Any]:
        """Its status once `holds` is true. It may stay unchanged for `seconds`."""
        status: dict[str, Any] = {}

        def asked() -> dict[str, Any] | None:
            nonlocal status
            status = self.status(name)
            return status if holds(status) else None

        return wait_for(asked, seconds, why=lambda: status, moves=lambda: status)

    def wait_for_attempt(
        self, number: int, phase: str = "Running", seconds: float = 60.0, name: str = ""
    ) -> dict[str, Any]:
        """The job's status when that attempt is in a phase."""
        return self.wait_for_status(
            lambda status: (status.get("attempt"), status.get("phase")) == (number, phase), seconds, name
        )

    def condition(self, kind: str, name: str = "") -> str:
        return condition(self.job(name), kind)

    def reason(self, kind: str, name: str = "") -> str:
        """Reason of a condition."""
        conditions = self.status(name).get("conditions", [])
        return "".join(each["reason"] for each in conditions if each["type"] == kind)

    def delete_job(self, name: str = "") -> None:
        self.cluster.delete(RLHF_JOBS, self.job(name))

    def events(self, name: str = "") -> list[str]:
        """Reasons of the events about it."""
        found = self.cluster.all(EVENTS, self.namespace)
        return [each["reason"] for each in found if each["regarding"]["name"] == (name or self.name)]

    # -- what was created for it -----------------------------------------------------------------

    def made(self, resource: Resource, name: str = "") -> list[KubeObject]:
        return self.cluster.all(resource, self.namespace, f"{JOB_LABEL}={name or self.name}")

    def remains(self, name: str = "") -> list[str]:
        """The existing objects of a job, except for its claim."""
        return [
            f"{resource} {obj['metadata']['name']}"
            for resource in OWNED_KINDS
            for obj in self.made(resource, name)
        ]

    def has_claim(self, name: str = "") -> bool:
        return self.cluster.found(CLAIMS, self.namespace, f"{name or self.name}-checkpoints") is not None

    def ray_job(self, number: int, name: str = "") -> KubeObject | None:
        return self.cluster.found(RAY_JOBS, self.namespace, f"{name or self.name}-{number}")

    def wait_for_ray_job(self, number: int, seconds: float = 60.0, name: str = "") -> KubeObject:
        return wait_for(lambda: self.ray_job(number, name), seconds, why=lambda: self.status(name))

    def pods(self, number: int, role: str = "", name: str = "") -> list[KubeObject]:
        """Pods of an attempt."""
        selector = f"{JOB_LABEL}={name or self.name},{ATTEMPT_LABEL}={number}" + (
            f",{ROLE_LABEL}={role}" if role else ""
        )
        return self.cluster.all(PODS, self.namespace, selector)

    def end(self, number: int, status: str, message: str = "", name: str = "") -> None:
        """End the Ray job of an attempt."""
        job_id = self.wait_for_ray_job(number, name=name)["status"]["jobId"]
        self.jobs.end(job_id, status, message)


def sandboxed(function: Callable[[JobSandbox], None]) -> Callable[[JobSandbox], None]:
    """Register a function as a scenario with a sandbox of its own, under the shared operator."""
    name = f"sandbox-{next(_NUMBERS)}"

    def run_in_sandbox(shared: SharedOperator) -> None:
        namespace = shared.namespaces[zlib.crc32(name.encode()) % len(shared.namespaces)]
        function(JobSandbox(shared.cluster, shared.jobs, namespace, name))

    register(function.__name__, function.__module__, run_in_sandbox)
    return function


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began
