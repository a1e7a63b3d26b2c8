"""A fake of KubeRay 1.7.0 for the test cluster, as far as Taper's operator can see: RayJob's life, as
`rayjob_controller.go` lists it, with RayClusters (`fake_ray_cluster.py`) of pods.

    "" -> Initializing -> Running -> Complete | Failed          (a RayCluster's status is copied on the way)
    Initializing, Running -> Suspending -> Suspended -> ""
    any -> ValidationFailed

Like KubeRay it works from caches, writes whole statuses and so meets conflicts, which it takes as a
reason to look again. Left out: the Service and the Secret of a head, K8sJobMode's submitter, and
`Retrying`, which needs a `backoffLimit` above 0.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import AlreadyExists, Conflict, Forbidden, NotFound, ServerError, Unreachable
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.informer.work_queue import WorkQueue
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of, own_key
from taper_operator.manifests.kinds import PODS, RAY_CLUSTERS, RAY_JOBS

from .fake_ray_cluster import CLUSTER_LABEL, FakeRayCluster, is_ready, name_suffix, ray_job_key
from .jobs_api import HeadUnreachable, JobInfo, JobsByNamespace

FINALIZER = "ray.io/rayjob-finalizer"
TERMINAL_JOB = ("SUCCEEDED", "FAILED", "STOPPED")
_TERMINAL = ("Complete", "Failed")
_CLEARED = (
    "rayClusterStatus",
    "rayClusterName",
    "dashboardURL",
    "jobId",
    "message",
    "reason",
    "rayJobInfo",
    "jobStatusCheckFailureStartTime",
    "jobStatus",
)


class FakeKubeRay:
    """See the module's docstring. Start it, and stop it.

    jobs: who runs the jobs
    period_seconds: until it looks again, KubeRay's 3 s by default
    unreachable_seconds: for which a head may not answer, KubeRay's 300 s by default
    """

    def __init__(
        self,
        api: ApiServer,
        jobs: JobsByNamespace,
        *,
        period_seconds: float = 3.0,
        unreachable_seconds: float = 300.0,
        workers: int = 8,
    ) -> None:
        self._api = api
        self.jobs = jobs
        self._period_seconds = period_seconds
        self._unreachable_seconds = unreachable_seconds
        self._queue: WorkQueue[tuple[Resource, ObjectKey]] = WorkQueue(clock=time.monotonic, random=Random())
        self._ray_jobs = ObjectCache(keys_of=own_key)
        self._clusters = ObjectCache(keys_of=own_key)
        self._pods = ObjectCache(keys_of=_cluster_key)
        self._cluster_part = FakeRayCluster(api, self._pods)
        self._reflectors = [
            self._reflector(RAY_JOBS, self._ray_jobs, RAY_JOBS),
            self._reflector(RAY_CLUSTERS, self._clusters, RAY_CLUSTERS),
            self._reflector(PODS, self._pods, RAY_CLUSTERS, CLUSTER_LABEL),
        ]
        targets: list[Callable[[], object]] = [
            *(each.run for each in self._reflectors),
            *[self._work] * workers,
        ]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        self.failures: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._queue.shut_down()
        for reflector in self._reflectors:
            reflector.stop()
        for thread in self._threads:
            thread.join(10)

    # -- working ---------------------------------------------------------------------------

    def _reflector(
        self, kind: Resource, cache: ObjectCache, reconciled: Resource, labels: str = ""
    ) -> Reflector:
        return Reflector(
            self._api,
            kind,
            cache,
            deliver=lambda key: self._deliver(reconciled, key),
            clock=time.monotonic,
            random=Random(),
            label_selector=labels,
        )

    def _deliver(self, kind: Resource, key: ObjectKey) -> None:
        self._queue.add((kind, key))
        if kind == RAY_CLUSTERS:
            self._queue.add((RAY_JOBS, ray_job_key(key)))

    def _work(self) -> None:
        while (item := self._queue.take_or_wait()) is not None:
            try:
                self._reconcile(*item)
            except (Conflict, NotFound, AlreadyExists):
                # As in an outdated cache.
                self._queue.add_after(item, 0.05)
            except (Forbidden, Unreachable, ServerError):
                # A ServiceAccount that was just deleted with its job, or an API server that has stopped.
                self._queue.add_after(item, self._period_seconds)
            except Exception as error:
                self.failures.append(f"{item}: {error!r}")
                self._queue.add_after(item, self._period_seconds)
            finally:
                self._queue.done(item)

    def _reconcile(self, kind: Resource, key: ObjectKey) -> None:
        if kind == RAY_CLUSTERS:
            cluster = self._clusters.get(key)
            if cluster is not None:
                self._cluster_part.reconcile(cluster)
            return
        ray_job = self._ray_jobs.get(key)
        if ray_job is not None and self._lives(ray_job):
            self._queue.add_after((kind, key), self._period_seconds)

    # -- a RayJob --------------------------------------------------------------------------

    def _lives(self, ray_job: KubeObject) -> bool:
        """Do the next thing about a RayJob; whether to look again soon."""
        status = ray_job.setdefault("status", {})
        if ray_job["metadata"].get("deletionTimestamp"):
            self._let_go(ray_job)
            return False
        before = copy.deepcopy(status)
        problem = _invalid(ray_job)
        if problem:
            _fail(status, "ValidationFailed", problem)
            status["jobDeploymentStatus"] = "ValidationFailed"
            self._write(ray_job, before)
            return False
        goes_on = self._step(ray_job)
        if goes_on is None:
            self._write(ray_job, before)
        return goes_on is not False

    def _step(self, ray_job: KubeObject) -> bool | None:
        """None for a status that is to be written, else whether to look again soon."""
        status = ray_job["status"]
        match status.get("jobDeploymentStatus", ""):
            case "":
                self._begin(ray_job)
            case "Initializing":
                self._initialize(ray_job)
            case "Running":
                self._run(ray_job)
            case "Suspending":
                if not self._clear(ray_job):
                    return True
            case "Suspended":
                if ray_job["spec"].get("suspend"):
                    return False
                status["jobDeploymentStatus"] = ""
            case "Complete" | "Failed":
                return self._shut_down(ray_job)
            case _:
                return False
        return None

    def _let_go(self, ray_job: KubeObject) -> None:
        status = ray_job["status"]
        if FINALIZER not in ray_job["metadata"].get("finalizers", []):
            return
        if status.get("jobStatus") not in TERMINAL_JOB and status.get("jobId"):
            with contextlib.suppress(HeadUnreachable):
                self.jobs.stop(status["jobId"])
        ray_job["metadata"]["finalizers"].remove(FINALIZER)
        self._api.replace(RAY_JOBS, ray_job)

    def _begin(self, ray_job: KubeObject) -> None:
        finalizers = ray_job["metadata"].setdefault("finalizers", [])
        if FINALIZER not in finalizers:
            finalizers.append(FINALIZER)
            ray_job["metadata"] = self._api.replace(RAY_JOBS, ray_job)["metadata"]
        name = ray_job["metadata"]["name"]
        ray_job["status"] |= {
            "jobId": ray_job["status"].get("jobId") or f"{name}-{name_suffix()}",
            "rayClusterName": ray_job["status"].get("rayClusterName") or f"{name}-{name_suffix()}",
            "jobDeploymentStatus": "Initializing",
            "startTime": _now(),
        }

    def _initialize(self, ray_job: KubeObject) -> None:
        spec, status = ray_job["spec"], ray_job["status"]
        if spec.get("suspend"):
            status["jobDeploymentStatus"] = "Suspending"
            return
        limit = spec.get("preRunningDeadlineSeconds")
        if limit is not None and _seconds_since(status["startTime"]) >= limit:
            message = "The RayJob has passed the preRunningDeadlineSeconds."
            _fail(status, "PreRunningDeadlineExceeded", message)
            return
        cluster = self._cluster_of(ray_job)
        if cluster.get("status", {}).get("state") != "ready":
            if cluster.get("status"):
                status["rayClusterStatus"] = cluster["status"]
            return
        status["dashboardURL"] = (
            f"{status['rayClusterName']}-head-svc.{ray_job['metadata']['namespace']}:8265"
        )
        status["jobDeploymentStatus"] = "Running"

    def _run(self, ray_job: KubeObject) -> None:
        status = ray_job["status"]
        if ray_job["spec"].get("suspend"):
            status["jobDeploymentStatus"] = "Suspending"
            return
        since = status.get("jobStatusCheckFailureStartTime")
        if since and _seconds_since(since) >= self._unreachable_seconds:
            _fail(
                status, "JobStatusCheckTimeoutExceeded", f"Job status checks have been failing since {since}"
            )
            return
        cluster = self._cluster_of(ray_job)
        try:
            job = self._asked(ray_job, cluster)
        except HeadUnreachable:
            status.setdefault("jobStatusCheckFailureStartTime", _now())
            return
        status.pop("jobStatusCheckFailureStartTime", None)
        if job is not None:
            _take(status, job, cluster)

    def _asked(self, ray_job: KubeObject, cluster: KubeObject) -> JobInfo | None:
        """What Ray says of the job, which is submitted to a head that does not know it."""
        pods = self._pods.of(key_of(cluster))
        if not any(pod["metadata"]["labels"]["ray.io/node-type"] == "head" and is_ready(pod) for pod in pods):
            raise HeadUnreachable("it has no pod")
        job_id = ray_job["status"]["jobId"]
        found = self.jobs.info(job_id)
        if found is None:
            self.jobs.submit(job_id, ray_job)
        return found

    def _cluster_of(self, ray_job: KubeObject) -> KubeObject:
        """The RayCluster, which is made where there is none."""
        metadata = ray_job["metadata"]
        key = ObjectKey(metadata["namespace"], ray_job["status"]["rayClusterName"])
        found = self._clusters.get(key)
        if found is not None:
            return found
        owner = {"apiVersion": RAY_JOBS.api_version, "kind": RAY_JOBS.kind, "controller": True}
        labels = {
            "ray.io/originated-from-cr-name": metadata["name"],
            "ray.io/originated-from-crd": "RayJob",
            "ray.io/job-submission-mode": ray_job["spec"].get("submissionMode", "K8sJobMode"),
        }
        return self._api.create(
            RAY_CLUSTERS,
            {
                "apiVersion": RAY_CLUSTERS.api_version,
                "kind": RAY_CLUSTERS.kind,
                "metadata": {
                    "name": key.name,
                    "namespace": key.namespace,
                    "labels": metadata.get("labels", {}) | labels,
                    "annotations": metadata.get("annotations", {}),
                    "ownerReferences": [
                        owner | {"name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": True}
                    ],
                },
                "spec": ray_job["spec"]["rayClusterSpec"],
            },
        )

    def _clear(self, ray_job: KubeObject) -> bool:
        """Whether the cluster is gone, and with it all that the status said of it."""
        status = ray_job["status"]
        if status.get("rayClusterName") and not self._is_cluster_gone(ray_job):
            return False
        for field in _CLEARED:
            status.pop(field, None)
        status["jobDeploymentStatus"] = "Suspended"
        return True

    def _is_cluster_gone(self, ray_job: KubeObject) -> bool:
        key = ObjectKey(ray_job["metadata"]["namespace"], ray_job["status"]["rayClusterName"])
        cluster = self._clusters.get(key)
        if cluster is None:
            return True
        if not cluster["metadata"].get("deletionTimestamp"):
            self._api.delete(RAY_CLUSTERS, key, uid=cluster["metadata"]["uid"])
        return False

    def _shut_down(self, ray_job: KubeObject) -> bool:
        """After its time the RayCluster goes; the RayJob stays."""
        spec, status = ray_job["spec"], ray_job["status"]
        if not spec.get("shutdownAfterJobFinishes"):
            return False
        wait = spec.get("ttlSecondsAfterFinished", 0) - _seconds_since(status["endTime"])
        if wait > 0:
            self._queue.add_after((RAY_JOBS, key_of(ray_job)), wait)
            return False
        return not self._is_cluster_gone(ray_job)

    def _write(self, ray_job: KubeObject, before: dict[str, Any]) -> None:
        status = ray_job["status"]
        _count(status, before)
        reported = ("jobStatus", "jobDeploymentStatus", "rayClusterStatus", "jobStatusCheckFailureStartTime")
        if all(status.get(field) == before.get(field) for field in reported):
            return
        if status.get("jobDeploymentStatus") in _TERMINAL:
            status["endTime"] = _now()
        self._api.replace(RAY_JOBS, ray_job, subresource="status")


def _count(status: dict[str, Any], before: dict[str, Any]) -> None:
    has_failed = status.get("jobDeploymentStatus") == "Failed"
    has_succeeded = (status.get("jobStatus"), status.get("jobDeploymentStatus")) == ("SUCCEEDED", "Complete")
    status["failed"] = before.get("failed", 0) + has_failed
    status["succeeded"] = before.get("succeeded", 0) + has_succeeded


def _take(status: dict[str, Any], job: JobInfo, cluster: KubeObject) -> None:
    """All that Ray and the RayCluster say, in one write."""
    state, reason = "Running", ""
    if job.status in TERMINAL_JOB:
        state, reason = ("Failed", "AppFailed") if job.status == "FAILED" else ("Complete", "")
    status |= {
        "rayClusterStatus": cluster.get("status", {}),
        "jobStatus": job.status,
        "jobDeploymentStatus": state,
        "reason": reason,
        "message": job.message,
    }
    times = {"startTime": job.start_ms, "endTime": job.end_ms}
    info = {name: _timestamp(milliseconds / 1000) for name, milliseconds in times.items() if milliseconds}
    if info:
        status["rayJobInfo"] = status.get("rayJobInfo", {}) | info


def _fail(status: dict[str, Any], reason: str, message: str) -> None:
    status |= {"jobDeploymentStatus": "Failed", "reason": reason, "message": message}


def _invalid(ray_job: KubeObject) -> str:
    """What KubeRay refuses, of the rules that a RayJob of Taper's could break."""
    spec = ray_job["spec"]
    if len(ray_job["metadata"]["name"]) > 47:
        return "RayJob name should be no more than 47 characters"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        return "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        return "a RayJob with shutdownAfterJobFinishes set to false cannot have TTLSecondsAfterFinished"
    return ""


def _cluster_key(pod: KubeObject) -> list[ObjectKey]:
    metadata = pod["metadata"]
    return [ObjectKey(metadata["namespace"], metadata["labels"][CLUSTER_LABEL])]


def _now() -> str:
    return _timestamp(time.time())


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds_since(text: str) -> float:
    return time.time() - datetime.fromisoformat(text).timestamp()
