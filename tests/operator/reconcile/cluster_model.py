"""A cluster in memory, as far as a plan can see it: KubeRay, Kueue, garbage collection, and mishaps.

KubeRay's part follows the transitions of 1.7.0 (`rayjob_controller.go`), one a step. It checks what must
hold at each moment: no RayJob is made while anything of another attempt is there.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.kube.resource import KubeObject, Resource
from taper_operator.kube.timestamp import timestamp
from taper_operator.manifests.kinds import PODS, RAY_CLUSTERS, RAY_JOBS, RLHF_JOBS
from taper_operator.manifests.names import ATTEMPT_LABEL, ROLE_LABEL
from taper_operator.observation.observation import KubeRay, Observation
from taper_operator.reconcile.action import Action, Apply, Create, Delete
from taper_operator.reconcile.plan import JobPlan, plan

from ..job_objects import NOW, POLICY

SEEN_KINDS = (RAY_JOBS, RAY_CLUSTERS, PODS)


class ClusterModel:
    """See the module's docstring. One job, one namespace; objects by kind and name."""

    def __init__(self, job: KubeObject) -> None:
        self.job: KubeObject | None = copy.deepcopy(job)
        self.objects: dict[tuple[Resource, str], KubeObject] = {}
        self.now: datetime = NOW
        self.kuberay: KubeRay = "served"
        self.events: list[tuple[str, str]] = []
        self.disrupted: set[int] = set()  # attempts that something was done to
        self.failed: set[int] = set()  # attempts whose job failed
        self._uids = (f"uid-{number}" for number in itertools.count())

    # -- the operator ------------------------------------------------------------------

    def observe(self) -> Observation:
        assert self.job is not None
        return copy.deepcopy(
            Observation(
                resource=self.job,
                ray_jobs=tuple(self._all(RAY_JOBS)),
                ray_clusters=tuple(self._all(RAY_CLUSTERS)),
                pods=tuple(self._all(PODS)),
                labelled=tuple(
                    (kind, obj) for (kind, _), obj in self.objects.items() if kind not in SEEN_KINDS
                ),
                kuberay=self.kuberay,
                has_pod_monitors=True,
            )
        )

    def reconcile(self, *, most_actions: int = 99) -> JobPlan:
        """Plan and execute; an operator that dies half-way does fewer actions."""
        if self.job is None:
            return JobPlan()
        planned = plan(self.observe(), POLICY, self.now)
        self.execute(planned, most_actions=most_actions)
        return planned

    def execute(self, planned: JobPlan, *, most_actions: int = 99) -> None:
        assert self.job is not None
        if planned.status is not None:
            reported = planned.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            self.job["status"] = reported | {
                name: value for name, value in self.job.get("status", {}).items() if name == "progress"
            }
        self.events += [(event.reason, event.occasion) for event in planned.events]
        for action in planned.actions[:most_actions]:
            self._do(action)

    @property
    def status(self) -> RLHFJobStatus:
        assert self.job is not None
        return RLHFJobStatus.model_validate(self.job.get("status", {}), by_alias=True, by_name=False)

    def _do(self, action: Action) -> None:
        match action:
            case Create(resource=resource, obj=obj, may_exist=may_exist):
                name = obj["metadata"]["name"]
                assert may_exist or (resource, name) not in self.objects, f"{resource} {name} is there"
                if resource == RAY_JOBS:
                    assert not any(self._all(kind) for kind in SEEN_KINDS), "something is left"
                self._put(resource, obj)
            case Apply(resource=resource, obj=obj):
                assert (resource, obj["metadata"]["name"]) in self.objects
                self._put(resource, obj)
            case Delete(resource=resource, key=key):
                self._delete(resource, key.name)

    def _delete(self, resource: Resource, name: str) -> None:
        if resource == RLHF_JOBS:
            self.job = None
            self.objects = {key: obj for key, obj in self.objects.items() if key[0] in SEEN_KINDS}
        elif resource == RAY_JOBS:
            self.objects[resource, name]["metadata"]["deletionTimestamp"] = timestamp(self.now)
        else:
            del self.objects[resource, name]

    def _put(self, resource: Resource, obj: KubeObject) -> KubeObject:
        new = copy.deepcopy(obj)
        new["metadata"].setdefault("uid", next(self._uids))
        self.objects[resource, new["metadata"]["name"]] = new
        return new

    def _all(self, resource: Resource) -> list[KubeObject]:
        return [obj for (kind, _), obj in self.objects.items() if kind == resource]

    # -- others ------------------------------------------------------------------------

    def kuberay_step(self) -> None:
        """Advance each RayJob by one state; delete what belongs to none."""
        for ray_job in self._all(RAY_JOBS):
            self._ray_job_step(ray_job)
        self._collect()

    def _ray_job_step(self, ray_job: KubeObject) -> None:
        status, name = ray_job.setdefault("status", {}), ray_job["metadata"]["name"]
        state = status.get("jobDeploymentStatus", "")
        if "deletionTimestamp" in ray_job["metadata"]:
            del self.objects[RAY_JOBS, name]
        elif ray_job["spec"]["suspend"]:
            ray_job["status"] = {"jobDeploymentStatus": "Suspended" if state else ""}
            self._tear_down(name)
        elif state in ("", "Suspended"):
            cluster = f"{name}-abcde"
            if (RAY_CLUSTERS, cluster) not in self.objects:
                status |= {"jobDeploymentStatus": "Initializing", "rayClusterName": cluster}
                self._build(ray_job, cluster)
        elif state == "Initializing":
            status["jobDeploymentStatus"] = "Running"
            for pod in self._pods_of(name):
                pod["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
            status["rayClusterStatus"] = self._counts(name)
        elif state == "Running":
            following = {"": "PENDING", "PENDING": "RUNNING"}
            status["jobStatus"] = following.get(status.get("jobStatus", ""), status.get("jobStatus"))
            status["rayClusterStatus"] = self._counts(name)
        elif state in ("Complete", "Failed"):
            self._tear_down(name)

    def _build(self, ray_job: KubeObject, cluster: str) -> None:
        labels, spec = ray_job["metadata"]["labels"], ray_job["spec"]["rayClusterSpec"]
        owner = [{"uid": ray_job["metadata"]["uid"]}]
        self._put(RAY_CLUSTERS, {"metadata": {"name": cluster, "labels": labels, "ownerReferences": owner}})
        groups = [(spec["headGroupSpec"], 1), *((g, g["replicas"]) for g in spec["workerGroupSpecs"])]
        for index, (group, replicas) in enumerate(groups):
            for replica in range(replicas):
                metadata = group["template"]["metadata"] | {"name": f"{cluster}-{index}-{replica}"}
                self._put(PODS, {"metadata": metadata, "status": {}})

    def _counts(self, name: str) -> dict[str, Any]:
        pods = self._pods_of(name)
        workers = [pod for pod in pods if pod["metadata"]["labels"][ROLE_LABEL] == "gpu"]
        (group,) = self.objects[RAY_JOBS, name]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        head = "True" if len(workers) < len(pods) else "False"
        return {
            "state": "ready",
            "desiredWorkerReplicas": group["replicas"],
            "readyWorkerReplicas": len(workers),
            "conditions": [{"type": "HeadPodReady", "status": head}],
        }

    def _pods_of(self, ray_job: str) -> list[KubeObject]:
        return [pod for pod in self._all(PODS) if pod["metadata"]["name"].startswith(f"{ray_job}-abcde-")]

    def _tear_down(self, ray_job: str) -> None:
        """Pods first go, then are gone, then the cluster is."""
        pods = self._pods_of(ray_job)
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                del self.objects[PODS, pod["metadata"]["name"]]
            else:
                pod["metadata"]["deletionTimestamp"] = timestamp(self.now)
        if not pods:
            self.objects.pop((RAY_CLUSTERS, f"{ray_job}-abcde"), None)

    def _collect(self) -> None:
        for cluster in self._all(RAY_CLUSTERS):
            ray_job = cluster["metadata"]["name"].removesuffix("-abcde")
            owner = self.objects.get((RAY_JOBS, ray_job))
            if owner is None or owner["metadata"]["uid"] != cluster["metadata"]["ownerReferences"][0]["uid"]:
                self._tear_down(ray_job)

    # -- what happens ------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def running(self) -> Iterator[tuple[int, KubeObject]]:
        """RayJobs whose own job runs, with the number of their attempt."""
        for ray_job in self._all(RAY_JOBS):
            is_terminating = "deletionTimestamp" in ray_job["metadata"] or ray_job["spec"]["suspend"]
            status = ray_job.get("status", {})
            words = (status.get("jobDeploymentStatus"), status.get("jobStatus"))
            if words == ("Running", "RUNNING") and not is_terminating:
                yield int(ray_job["metadata"]["labels"][ATTEMPT_LABEL]), ray_job

    def end_job(self, job_status: str, reason: str = "") -> None:
        for number, ray_job in self.running():
            is_success = job_status == "SUCCEEDED"
            state = "Failed" if job_status == "FAILED" else "Complete"
            ray_job["status"] |= {"jobStatus": job_status, "jobDeploymentStatus": state, "reason": reason}
            if not is_success:
                self.failed.add(number)

    def disrupt(self, reason: str = "PreemptionByScheduler") -> None:
        """The cluster takes a pod, and the job fails of it at some later step, or hangs."""
        for number, ray_job in self.running():
            pods = self._pods_of(ray_job["metadata"]["name"])
            if pods:
                pods[-1]["status"]["conditions"] = [
                    {"type": "DisruptionTarget", "status": "True", "reason": reason}
                ]
                self.disrupted.add(number)

    def lose_head(self) -> None:
        for number, ray_job in self.running():
            reason = "JobStatusCheckTimeoutExceeded"
            ray_job["status"] |= {"jobDeploymentStatus": "Failed", "reason": reason}
            self.disrupted.add(number)

    def admit(self) -> None:
        for ray_job in self._all(RAY_JOBS):
            ray_job["spec"]["suspend"] = False

    def evict(self) -> None:
        for number, ray_job in list(self.running()):
            if "kueue.x-k8s.io/queue-name" in ray_job["metadata"]["labels"]:
                ray_job["spec"]["suspend"] = True
                self.disrupted.add(number)

    def delete_ray_job(self) -> None:
        for number, ray_job in self.running():
            ray_job["metadata"]["deletionTimestamp"] = timestamp(self.now)
            self.disrupted.add(number)

    def ask(self, *, suspend: bool) -> None:
        if self.job is not None and self.job["spec"].get("suspend", False) != suspend:
            self.job["spec"]["suspend"] = suspend
            self.job["metadata"]["generation"] += 1

    def report_checkpoint(self, step: int) -> None:
        for number, _ in self.running():
            assert self.job is not None
            progress = {"attempt": number, "sequence": 1, "time": timestamp(self.now), "step": step}
            progress |= {"steps": 99, "lastCheckpointStep": step}
            self.job.setdefault("status", {})["progress"] = progress
