"""A real Ray head on loopback, whose Jobs API runs what it is handed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import urllib3

from ..control_plane.certificates import LOOPBACK
from ..control_plane.child_process import ChildProcess
from ..control_plane.cluster import wait_for
from ..control_plane.control_plane import free_ports

_START_SECONDS = 90.0
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # As in a pod, nothing else takes precedence.
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def ray_head(*flags: str) -> Iterator[str]:
    """Address of the Jobs API of a head that was started for this; flags: of `ray start`."""
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        port, dashboard = free_ports(2)
        head = ChildProcess(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                f"--node-ip-address={LOOPBACK}",
                f"--port={port}",
                f"--dashboard-host={LOOPBACK}",
                f"--dashboard-port={dashboard}",
                f"--temp-dir={folder}",
                *flags,
            ],
            log=Path(folder) / "start.log",
            env={**os.environ, **_ENVIRONMENT},
        )
        try:
            url = f"http://{LOOPBACK}:{dashboard}"
            wait_for(lambda: _answers(url), _START_SECONDS, why=head.last_words)
            yield url
        finally:
            head.stop()
            # The processes of its session that are still running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        answer = urllib3.request("GET", f"{url}/api/jobs/", timeout=5.0, retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200
