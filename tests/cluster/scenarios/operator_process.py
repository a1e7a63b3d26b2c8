"""The operator as a process: `taper-operator run`, with the token of its own ServiceAccount."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from taper_operator.kube.resource import LEASES, Resource

from ..control_plane.certificates import LOOPBACK
from ..control_plane.chart_access import access_objects
from ..control_plane.child_process import ChildProcess
from ..control_plane.cluster import Cluster, wait_for
from ..control_plane.control_plane import free_ports

LEASE = "taper"
# Deadline for a process to start: on a busy machine its imports alone take a while.
START_SECONDS = 90.0
# For an operator of one replica: one that loses its Lease exits, and no kubelet restarts it here.
LONG_LEASE = "--lease-seconds=60/45/5"
_RBAC = "rbac.authorization.k8s.io"
_ACCESS_KINDS = {
    "ServiceAccount": Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount"),
    "Role": Resource(group=_RBAC, version="v1", plural="roles", kind="Role"),
    "RoleBinding": Resource(group=_RBAC, version="v1", plural="rolebindings", kind="RoleBinding"),
    "ClusterRole": Resource(
        group=_RBAC, version="v1", plural="clusterroles", kind="ClusterRole", is_namespaced=False
    ),
    "ClusterRoleBinding": Resource(
        group=_RBAC,
        version="v1",
        plural="clusterrolebindings",
        kind="ClusterRoleBinding",
        is_namespaced=False,
    ),
}


class Installation:
    """An operator's namespace, ServiceAccount and rights, by the chart; it watches some namespaces, or `*`.

    user: as whom the audit log knows it
    access: the objects that say what it may do
    receives_reports: whether it may ask about the tokens of jobs that report to it; the flags say where
    """

    def __init__(
        self,
        cluster: Cluster,
        watched: Sequence[str],
        flags: Sequence[str] = (),
        *,
        receives_reports: bool = False,
    ) -> None:
        self.cluster = cluster
        self.namespace = cluster.new_namespace("operator")
        self.access = access_objects(self.namespace, watched, receives_reports=receives_reports)
        for obj in self.access:
            cluster.api.apply(_ACCESS_KINDS[obj["kind"]], obj)
        (self._account,) = (obj["metadata"]["name"] for obj in self.access if obj["kind"] == "ServiceAccount")
        self.user = f"system:serviceaccount:{self.namespace}:{self._account}"
        self._flags = [f"--namespaces={','.join(watched)}", *flags]
        self._num_replicas = 0

    def replica(self, url: str = "") -> OperatorProcess:
        """Start another replica, which reaches the API server at that address."""
        self._num_replicas += 1
        name = f"replica-{self._num_replicas}"
        plane = self.cluster.plane
        stem = plane.folder / f"{self.namespace}-{name}"
        token = self.cluster.token_of(self.namespace, self._account)
        kubeconfig = plane.write_kubeconfig(stem.with_suffix(".kubeconfig"), token, url)
        own = [
            f"--identity={name}",
            f"--namespace={self.namespace}",
            f"--lease-name={LEASE}",
            f"--kubeconfig={kubeconfig}",
            "--image=taper/rollout:test",
        ]
        return OperatorProcess(name, [*own, *self._flags], token, log=stem.with_suffix(".log"))

    @contextmanager
    def running(self) -> Iterator[OperatorProcess]:
        """One replica that leads."""
        replica = self.replica()
        try:
            self.wait_for_leader(replica)
            yield replica
        finally:
            replica.stop()

    def wait_for_leader(self, replica: OperatorProcess) -> None:
        """Raises AssertionError with the replica's last words."""
        wait_for(
            lambda: self.leader() == replica.name or not replica.is_alive,
            START_SECONDS,
            why=replica.last_words,
        )
        assert replica.is_alive, replica.last_words()

    def leader(self) -> str:
        """Name of the replica that holds the Lease, empty if none does."""
        lease = self.cluster.found(LEASES, self.namespace, LEASE) or {"spec": {}}
        return str(lease["spec"].get("holderIdentity") or "").partition("_")[0]


class OperatorProcess(ChildProcess):
    """A replica. name: its identity; credential: identifies it among others of its user in the audit log"""

    def __init__(self, name: str, flags: Sequence[str], token: str, *, log: Path) -> None:
        self.name = name
        self.credential = f"JTI={_claims(token)['jti']}"
        (self.port,) = free_ports(1)
        program = Path(sys.executable).with_name("taper-operator")
        command = [sys.executable, program, "run", f"--address={LOOPBACK}:{self.port}", *flags]
        super().__init__(command, log=log, env=_environment())

    def page(self, path: str) -> str | None:
        """A page that it serves, None if it is not there."""
        try:
            answer = urllib3.request(
                "GET", f"http://{LOOPBACK}:{self.port}{path}", timeout=2.0, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return None
        return answer.data.decode() if answer.status == 200 else None

    def is_ready(self) -> bool:
        """Whether its caches are filled."""
        return self.page("/readyz") is not None

    def wait_until_ready(self) -> None:
        """Raises AssertionError with its last words."""
        wait_for(lambda: self.is_ready() or not self.is_alive, START_SECONDS, why=self.last_words)
        assert self.is_alive, self.last_words()


def _environment() -> dict[str, str]:
    """Nothing of the tests' own settings."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


def _claims(token: str) -> dict[str, Any]:
    """What a token says, unchecked."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
