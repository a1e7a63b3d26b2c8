"""An operator that receives a job's reports. All of it is real except the API server, which is in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from taper_operator.kube.resource import ObjectKey
from taper_operator.main import watched_kinds
from taper_operator.manager import Manager
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.report_path import report_path
from taper_operator.reports.server import ReportServer
from taper_operator.settings.settings import settings_from

from ..operator.certificates import LOOPBACK, make_certificates
from ..operator.job_objects import resource
from ..operator.reports.token_reviews import TokenApiServer

KEY = ObjectKey("team", "full")
TOKEN = "a-projected-token"
START_SECONDS = 30.0
# A write that met a conflict comes a second later.
WRITE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """environment: variables for reports, as in the head's pod"""

    api_server: TokenApiServer
    manager: Manager
    environment: dict[str, str]

    def status(self) -> dict[str, Any]:
        """The job's status as it is now."""
        status: dict[str, Any] = self.api_server.objects[RLHF_JOBS, KEY]["status"]
        return status

    def wait_for_step(self, step: int) -> None:
        """Wait until the status shows so many steps, as long as replicas may take to write it."""
        deadline = time.monotonic() + WRITE_SECONDS
        while self.status().get("progress", {}).get("step") != step and time.monotonic() < deadline:
            time.sleep(0.05)

    def metrics(self) -> str:
        """The operator's metrics."""
        return self.manager.metrics.exposition()[0].decode()


@contextmanager
def receiving(folder: Path, *, attempt: int) -> Iterator[Receiver]:
    """An operator that receives the reports of one attempt."""
    files = make_certificates(folder)
    flags = ["--namespaces=*", "--identity=replica", "--namespace=taper", f"--address={LOOPBACK}:0"]
    flags += [f"--report-url=https://{LOOPBACK}:1", f"--report-ca={files.ca}", f"--report-key={files.key}"]
    flags += [f"--report-certificate={files.certificate}", f"--report-address={LOOPBACK}:0"]
    kinds = watched_kinds()
    api_server = TokenApiServer(*(kind.resource for kind in kinds), is_live=True)
    api_server.pool_manager = urllib3.PoolManager()  # type: ignore[attr-defined]
    job = api_server.put(RLHF_JOBS, resource() | {"status": {"attempt": attempt}})
    identity = JobIdentity(name=KEY.name, namespace=KEY.namespace, uid=job["metadata"]["uid"])
    api_server.give(TOKEN, identity, attempt)
    (folder / "token").write_text(TOKEN)
    manager = Manager(settings_from(flags, {}), kinds, make_client=lambda _: api_server.client())
    controller = manager.controller(lambda key: None)
    thread = threading.Thread(target=controller.run, daemon=True)
    thread.start()
    try:
        yield Receiver(
            api_server=api_server,
            manager=manager,
            environment={
                "TAPER_REPORT_URL": f"https://{LOOPBACK}:{_port(manager)}{report_path(*KEY)}",
                "TAPER_REPORT_CA": files.ca,
                "TAPER_REPORT_TOKEN": str(folder / "token"),
                "TAPER_ATTEMPT": str(attempt),
            },
        )
    finally:
        controller.stop()
        thread.join(START_SECONDS)
        assert not thread.is_alive()


def _port(manager: Manager) -> int:
    """Where the operator listens, once it does."""
    (server,) = (each for each in manager.services.values() if isinstance(each, ReportServer))
    deadline = time.monotonic() + START_SECONDS
    while not (server.port and all(reflector.has_synced for reflector in manager.reflectors)):
        assert time.monotonic() < deadline, "the operator does not listen"
        time.sleep(0.05)
    return server.port
