"""The state of a RayJob, by those fields of its status that are reliable.

The deployment status `Running` precedes the job's submission; `Complete` also stands for a stopped job; a
RayCluster's `ready` is never unset. So this uses the status of Ray's own job, and the cluster's counts and
condition HeadPodReady.

Invariant (asserted by `tests/operator/observation/test_ray_job_state.py`): whatever a status holds, reading
it raises nothing, and only SUCCEEDED is success.
"""

from __future__ import annotations

from dataclasses import dataclass

from taper_operator.kube.json_field import count_at, field_at, is_condition_true, text_at
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.names import attempt_number

HEAD_UNREACHABLE = "JobStatusCheckTimeoutExceeded"
VALIDATION_FAILED = "ValidationFailed"
_CLUSTER = ("status", "rayClusterStatus")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobState:
    """deployment_status, job_status, reason, message: as KubeRay writes them, empty where it does not
    is_head_ready: None if unknown
    """

    name: str
    uid: str
    attempt: int
    is_terminating: bool
    is_suspended: bool
    deployment_status: str
    job_status: str
    reason: str
    message: str
    ray_cluster: str
    desired_workers: int
    ready_workers: int
    is_head_ready: bool | None

    @property
    def has_succeeded(self) -> bool:
        return self.job_status == "SUCCEEDED"

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without success. A stopped job counts as failed."""
        return not self.has_succeeded and (
            self.job_status in ("FAILED", "STOPPED")
            or self.deployment_status in ("Failed", "Complete", VALIDATION_FAILED)
        )

    @property
    def is_running(self) -> bool:
        """Whether the job itself runs, not only its cluster."""
        return self.deployment_status == "Running" and self.job_status == "RUNNING"

    @property
    def is_torn_down_by_kuberay(self) -> bool:
        """Whether KubeRay deletes the cluster by itself."""
        return self.deployment_status in ("Failed", "Complete")

    @property
    def has_all_pods(self) -> bool:
        return (
            self.desired_workers > 0
            and self.ready_workers >= self.desired_workers
            and self.is_head_ready is not False
        )

    @property
    def cause(self) -> str:
        """Why it has failed, in one word."""
        if self.job_status == "STOPPED":
            return "JobStopped"
        return self.reason or (
            VALIDATION_FAILED if self.deployment_status == VALIDATION_FAILED else "JobFailed"
        )


def ray_job_state(obj: KubeObject) -> RayJobState:
    """Read a RayJob."""
    return RayJobState(
        name=text_at(obj, "metadata", "name"),
        uid=text_at(obj, "metadata", "uid"),
        attempt=attempt_number(obj),
        is_terminating=field_at(obj, "metadata", "deletionTimestamp") is not None,
        is_suspended=field_at(obj, "spec", "suspend") is True,
        deployment_status=text_at(obj, "status", "jobDeploymentStatus"),
        job_status=text_at(obj, "status", "jobStatus"),
        reason=text_at(obj, "status", "reason"),
        message=text_at(obj, "status", "message"),
        ray_cluster=text_at(obj, "status", "rayClusterName"),
        desired_workers=count_at(obj, *_CLUSTER, "desiredWorkerReplicas"),
        ready_workers=count_at(obj, *_CLUSTER, "readyWorkerReplicas"),
        is_head_ready=is_condition_true(obj, "HeadPodReady", *_CLUSTER, "conditions"),
    )
