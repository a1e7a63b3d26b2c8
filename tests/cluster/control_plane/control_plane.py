"""A Kubernetes control plane on loopback, with everything but machines: etcd, API server, controllers,
scheduler, and kwok, which plays the kubelets of all nodes.

It writes to one folder only, and uses free ports. Its audit log records the requests of ServiceAccounts,
as the operator's own is.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

import urllib3
import yaml

from .certificates import LOOPBACK, write_certificate, write_key
from .child_process import ChildProcess
from .cluster_tools import STAGES, find

_READY_SECONDS = 60.0
# What jobs and their pods need, without volumes and networks.
_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "taint-eviction-controller",
)
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
# Nothing binds claims here: pods that mount one are scheduled anyway.
_SCHEDULER = {
    "apiVersion": "kubescheduler.config.k8s.io/v1",
    "kind": "KubeSchedulerConfiguration",
    "leaderElection": {"leaderElect": False},
    "podInitialBackoffSeconds": 1,
    "podMaxBackoffSeconds": 2,
    "profiles": [
        {
            "schedulerName": "default-scheduler",
            "plugins": {
                "multiPoint": {
                    "disabled": [
                        {"name": name}
                        for name in ("VolumeBinding", "VolumeRestrictions", "VolumeZone", "NodeVolumeLimits")
                    ]
                }
            },
        }
    ],
}


class ControlPlane:
    """See the module's docstring. Raises NoTools where a program is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.audit_log = folder / "audit.log"
        self.certificate = folder / "server.crt"
        self.admin_token = secrets.token_hex(16)
        self._etcd_port, self._etcd_peer_port, self.port, self._kwok_port = free_ports(4)
        self._programs = {name: find(name) for name in ("etcd", "kube-apiserver")}
        self._processes: dict[str, ChildProcess] = {}
        self._write_files()

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    # -- starting and stopping -----------------------------------------------------------

    def start(self) -> None:
        """Start etcd and the API server, and wait until it is ready."""
        client, peer = (f"http://{LOOPBACK}:{port}" for port in (self._etcd_port, self._etcd_peer_port))
        self._start(
            "etcd",
            self._programs["etcd"],
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        )
        self.start_api_server()

    def start_api_server(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._start(
            "kube-apiserver",
            self._programs["kube-apiserver"],
            f"--etcd-servers=http://{LOOPBACK}:{self._etcd_port}",
            f"--bind-address={LOOPBACK}",
            f"--advertise-address={LOOPBACK}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.certificate}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--cert-dir={self.folder}",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'tokens.key'}",
            f"--service-account-signing-key-file={self.folder / 'tokens.key'}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            # As on OpenShift: creating an object that blocks its owner's deletion needs a right.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--audit-policy-file={self.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
        )
        self._wait_for("kube-apiserver", self.is_ready)

    def start_controllers(self) -> None:
        """Start what acts on objects. Kinds that are defined later are not garbage-collected at once."""
        kubeconfig = f"--kubeconfig={self.admin_kubeconfig}"
        self._start(
            "kube-controller-manager",
            find("kube-controller-manager"),
            kubeconfig,
            "--leader-elect=false",
            "--secure-port=0",
            f"--controllers={','.join(_CONTROLLERS)}",
            f"--service-account-private-key-file={self.folder / 'tokens.key'}",
            f"--root-ca-file={self.certificate}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            # Nodes without machines send no heartbeats.
            "--node-monitor-grace-period=24h",
        )
        self._start(
            "kube-scheduler",
            find("kube-scheduler"),
            kubeconfig,
            f"--config={self.folder / 'scheduler.yaml'}",
            "--secure-port=0",
        )
        self._start(
            "kwok",
            find("kwok"),
            kubeconfig,
            "--manage-all-nodes=true",
            f"--server-address={LOOPBACK}:{self._kwok_port}",
            f"--config={find(STAGES)}",
        )

    def kill_api_server(self) -> None:
        self._processes.pop("kube-apiserver").kill()

    def stop(self) -> None:
        """End everything at once: nothing of it is kept."""
        for name in list(self._processes):
            self._processes.pop(name).kill()

    def is_ready(self) -> bool:
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        try:
            with urllib3.PoolManager(ca_certs=str(self.certificate), retries=False) as pool:
                answer = pool.request("GET", f"{self.url}/readyz", headers=headers, timeout=2.0)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200

    # -- within ---------------------------------------------------------------------------

    def _start(self, name: str, *command: str | Path) -> None:
        self._processes[name] = ChildProcess(command, log=self.folder / f"{name}.log")

    def _wait_for(self, name: str, is_ready: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + _READY_SECONDS
        while not is_ready():
            process = self._processes[name]
            assert process.is_alive, f"{name} has ended:\n{process.last_words()}"
            assert time.monotonic() < ends_at, f"{name} is not ready:\n{process.last_words()}"
            time.sleep(0.1)

    def _write_files(self) -> None:
        write_certificate(self.certificate, write_key(self.folder / "server.key"))
        write_key(self.folder / "tokens.key")
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
        connection = {
            "clientConnection": {"kubeconfig": str(self.admin_kubeconfig), "qps": 200, "burst": 400}
        }
        (self.folder / "scheduler.yaml").write_text(yaml.safe_dump(_SCHEDULER | connection))
        self.write_kubeconfig(self.admin_kubeconfig, self.admin_token)

    def write_kubeconfig(self, file: Path, token: str, url: str = "") -> Path:
        """A kubeconfig for who has that token, and may reach the API server at another address."""
        cluster = {"server": url or self.url, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(content))
        return file


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody uses now. They are asked for together, so that they differ."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
