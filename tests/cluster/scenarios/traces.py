"""What KubeRay writes into a RayJob's status, as a list of states: recorded from KubeRay, and compared with
what the fake KubeRay writes.

A state is what Taper's operator can read; of names and times only the presence counts.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from taper_operator.kube.client import ApiServer
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import RAY_JOBS

State = dict[str, Any]
_THERE = ("jobId", "rayClusterName", "dashboardURL", "startTime", "endTime", "jobStatusCheckFailureStartTime")
_GONE = {"gone": True}


class Recorder:
    """Follows the RayJobs of a namespace from now on. Close it."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        version = api.list(RAY_JOBS, namespace=namespace).resource_version
        self._watch = api.watch(RAY_JOBS, resource_version=version, namespace=namespace)
        self._lock = threading.Lock()
        self._traces: dict[str, list[State]] = {}
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def trace(self, name: str) -> list[State]:
        """The states of a RayJob so far, no two alike after one another."""
        with self._lock:
            return list(self._traces.get(name, ()))

    def close(self) -> None:
        self._watch.stop()
        self._thread.join(10)

    def _follow(self) -> None:
        with contextlib.closing(self._watch):
            for event in self._watch:
                if event.type != "BOOKMARK":
                    state = _GONE if event.type == "DELETED" else state_of(event.object)
                    self._add(event.object["metadata"]["name"], state)

    def _add(self, name: str, state: State) -> None:
        with self._lock:
            trace = self._traces.setdefault(name, [])
            if not trace or trace[-1] != state:
                trace.append(state)


def state_of(ray_job: KubeObject) -> State:
    """What is true of a RayJob, without what is empty or zero."""
    status = ray_job.get("status", {})
    info = status.get("rayJobInfo") or {}
    reported = {
        "deployment": status.get("jobDeploymentStatus"),
        "job": status.get("jobStatus"),
        "reason": status.get("reason"),
        "cluster": (status.get("rayClusterStatus") or {}).get("state"),
        "there": sorted(field for field in _THERE if status.get(field)),
        "info": sorted(info),
        "failed": status.get("failed"),
        "succeeded": status.get("succeeded"),
        "finalizers": ray_job["metadata"].get("finalizers"),
        "going": bool(ray_job["metadata"].get("deletionTimestamp")),
    }
    return {name: value for name, value in reported.items() if value}
