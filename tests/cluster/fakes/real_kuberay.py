"""KubeRay's own operator as a process, where `TAPER_TEST_KUBERAY` names its program."""

from __future__ import annotations

import os
from pathlib import Path

from taper_operator.manifests.kinds import PODS

from ..control_plane.certificates import LOOPBACK
from ..control_plane.child_process import ChildProcess
from ..control_plane.cluster import Cluster
from ..control_plane.control_plane import free_ports
from .fake_ray_cluster import CLUSTER_LABEL, is_ready
from .jobs_api import ScriptedJobs
from .scripted_head import ScriptedHead

VARIABLE = "TAPER_TEST_KUBERAY"


def program() -> Path | None:
    """None where the fake is used."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


class RealKubeRay:
    """See the module's docstring. It has the interface of `FakeKubeRay`.

    unreachable_seconds: for which a head may not answer
    """

    def __init__(self, cluster: Cluster, jobs: ScriptedJobs, *, unreachable_seconds: int) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._unreachable_seconds = unreachable_seconds
        self.failures: list[str] = []

    def start(self) -> None:
        metrics, probes = free_ports(2)
        self._head = ScriptedHead(self._jobs, self._is_up)
        plane = self._cluster.plane
        named = program()
        assert named is not None
        self._process = ChildProcess(
            [
                named,
                f"--kubeconfig={plane.admin_kubeconfig}",
                f"--metrics-addr={LOOPBACK}:{metrics}",
                f"--health-probe-bind-address={LOOPBACK}:{probes}",
                "--enable-leader-election=false",
                "--reconcile-concurrency=4",
            ],
            log=plane.folder / "kuberay.log",
            env={
                "PATH": os.environ["PATH"],
                "HTTP_PROXY": self._head.url,
                "ENABLE_INIT_CONTAINER_INJECTION": "false",
                "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS": str(self._unreachable_seconds),
            },
        )

    def stop(self) -> None:
        if not self._process.is_alive:
            self.failures.append(self._process.last_words())
        self._process.kill()
        self._head.close()

    def _is_up(self, namespace: str, cluster: str) -> bool:
        selector = f"{CLUSTER_LABEL}={cluster},ray.io/node-type=head"
        return any(is_ready(pod) for pod in self._cluster.all(PODS, namespace, selector))
