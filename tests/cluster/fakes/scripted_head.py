"""A proxy that answers for the dashboards of all heads, so that the real KubeRay sees scripted jobs.

Go's HTTP client asks its proxy for whole addresses, and no proxy for those on loopback: with this one set,
what is meant for `<cluster>-head-svc.<namespace>.svc` comes here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..control_plane.certificates import LOOPBACK
from .jobs_api import ScriptedJobs

_ADDRESS = re.compile(r"http://(?P<cluster>[^./]+)-head-svc\.(?P<namespace>[^./]+)\.svc[^/]*(?P<path>/.*)")
_JOB = re.compile(r"/api/jobs/(?P<id>[^/]+)(?P<stop>/stop)?")


class ScriptedHead:
    """See the module's docstring. is_up: whether the head of a namespace's RayCluster answers"""

    def __init__(self, jobs: ScriptedJobs, is_up: Callable[[str, str], bool]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}") if length else {}
                address = _ADDRESS.fullmatch(self.path)
                if address is None or not is_up(address["namespace"], address["cluster"]):
                    self.close_connection = True
                    return
                status, reported = _response(jobs, self.command, address["path"], body)
                content = json.dumps(reported).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _response(jobs: ScriptedJobs, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    found = _JOB.fullmatch(path)
    if found is None:
        jobs.submit(body["submission_id"], {})
        return 200, {"job_id": body["submission_id"], "submission_id": body["submission_id"]}
    if found["stop"]:
        jobs.stop(found["id"])
        return 200, {"stopped": True}
    info = jobs.info(found["id"])
    if info is None:
        return 404, {}
    times = {"start_time": info.start_ms, "end_time": info.end_ms}
    reported = {
        "submission_id": found["id"],
        "status": info.status,
        "message": info.message,
        "type": "SUBMISSION",
    }
    return 200, reported | {name: value for name, value in times.items() if value}
