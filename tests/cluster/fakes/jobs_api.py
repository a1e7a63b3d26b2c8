"""Runs the jobs that are submitted to heads: by a script, or on a real Ray head.

This is what KubeRay asks of Ray's Jobs API: whether it knows a job, to take one, to stop one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import urllib3
import yaml

from taper_operator.kube.resource import KubeObject


class HeadUnreachable(Exception):
    """The head does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What Ray says of a job. start_ms, end_ms: since 1970, 0 for not yet"""

    status: str
    message: str = ""
    start_ms: int = 0
    end_ms: int = 0


class JobsApi(Protocol):
    """See the module's docstring. All raise HeadUnreachable."""

    def info(self, job_id: str) -> JobInfo | None:
        """None for a job that it does not know."""

    def submit(self, job_id: str, ray_job: KubeObject) -> None: ...

    def stop(self, job_id: str) -> None: ...


class ScriptedJobs:
    """Jobs that run until a test says how they end. Called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, JobInfo] = {}

    def info(self, job_id: str) -> JobInfo | None:
        with self._lock:
            found = self._jobs.get(job_id)
            if found is not None and found.status == "PENDING":
                # PENDING was seen once: now it runs.
                self._jobs[job_id] = replace(found, status="RUNNING", start_ms=1_000)
            return found

    def submit(self, job_id: str, ray_job: KubeObject) -> None:
        with self._lock:
            assert job_id not in self._jobs, "Ray refuses an id that it knows"
            self._jobs[job_id] = JobInfo(status="PENDING")

    def stop(self, job_id: str) -> None:
        self.end(job_id, "STOPPED")

    def end(self, job_id: str, status: str, message: str = "") -> None:
        """Have a job end, if it has not."""
        with self._lock:
            found = self._jobs.get(job_id)
            if found is not None and found.status in ("PENDING", "RUNNING"):
                self._jobs[job_id] = replace(found, status=status, message=message, end_ms=2_000)


Prepared = tuple[str, dict[str, str]]


def as_it_is(ray_job: KubeObject) -> Prepared:
    """The entrypoint of a RayJob, and no more variables for it."""
    return ray_job["spec"]["entrypoint"], {}


class RayHeadJobs:
    """The Jobs API of a real head.

    prepare: entrypoint and variables of a RayJob's driver; what its pod would have is not on this machine
    """

    def __init__(self, url: str, prepare: Callable[[KubeObject], Prepared] = as_it_is) -> None:
        self._url = url
        self._prepare = prepare
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2, read=10))

    def info(self, job_id: str) -> JobInfo | None:
        answer = self._ask("GET", f"/api/jobs/{job_id}")
        if answer.status == 404:
            return None
        reported = answer.json()
        return JobInfo(
            status=reported["status"],
            message=reported.get("message") or "",
            start_ms=reported.get("start_time") or 0,
            end_ms=reported.get("end_time") or 0,
        )

    def submit(self, job_id: str, ray_job: KubeObject) -> None:
        spec = ray_job["spec"]
        runtime_env: dict[str, Any] = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
        entrypoint, variables = self._prepare(ray_job)
        body = {
            "entrypoint": entrypoint,
            "submission_id": job_id,
            "runtime_env": runtime_env | {"env_vars": runtime_env.get("env_vars", {}) | variables},
            "metadata": spec.get("metadata") or {},
        }
        answer = self._ask("POST", "/api/jobs/", body)
        if answer.status >= 300:
            raise HeadUnreachable(answer.data.decode(errors="replace"))

    def stop(self, job_id: str) -> None:
        self._ask("POST", f"/api/jobs/{job_id}/stop")

    def log(self, job_id: str) -> str:
        """What a job's driver has said."""
        answer = self._ask("GET", f"/api/jobs/{job_id}/logs")
        return str(answer.json()["logs"]) if answer.status == 200 else answer.data.decode(errors="replace")

    def living_actors(self) -> list[str]:
        """Classes of the actors that have not ended, of all jobs."""
        reported = self._ask("GET", "/api/v0/actors").json()
        actors = reported["data"]["result"]["result"]
        return [each["class_name"] for each in actors if each["state"] != "DEAD"]

    def _ask(self, method: str, path: str, body: object = None) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, f"{self._url}{path}", json=body)
        except urllib3.exceptions.HTTPError as error:
            raise HeadUnreachable(str(error)) from error


class JobsByNamespace:
    """Scripted jobs, but in the namespaces of `heads`, where real heads run them."""

    def __init__(self, scripted: ScriptedJobs) -> None:
        self.heads: dict[str, JobsApi] = {}
        self._scripted = scripted
        self._runs: dict[str, JobsApi] = {}

    def info(self, job_id: str) -> JobInfo | None:
        return self._runs[job_id].info(job_id) if job_id in self._runs else None

    def submit(self, job_id: str, ray_job: KubeObject) -> None:
        chosen = self.heads.get(ray_job["metadata"]["namespace"], self._scripted)
        chosen.submit(job_id, ray_job)
        self._runs[job_id] = chosen

    def stop(self, job_id: str) -> None:
        if job_id in self._runs:
            self._runs[job_id].stop(job_id)
