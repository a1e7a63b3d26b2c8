"""The RayJob of an attempt, for KubeRay 1.7.

It is created once and never changed: Kueue writes node selectors and `suspend` into it, which a second apply
would revert. KubeRay's own retries are off, since they do not distinguish a lost node from a failure; each
attempt is a RayJob of its own.

Invariants (asserted by `tests/operator/manifests/test_ray_job.py`, for every job that the parser accepts):
- it is valid by KubeRay's CRD and keeps KubeRay's and Kueue's other rules: a name of at most 47 characters,
  min and max replicas set, shutdown set as `suspend` and a TTL require, no deletion rules, no
  `clusterSelector`, at most 18 pod sets, a submitter template in K8sJobMode only;
- the entrypoint is the same text for every job: a shell never reads any part of a job;
- Ray has a GPU and three CPUs for each rank, and CPUs for VeRL's helpers, whatever the pods have;
- it is created suspended exactly if the job waits in a Kueue queue.
"""

from __future__ import annotations

from typing import Final

from taper_api import RLHFJob
from taper_api.base.quantity import cpus_of
from taper_api.pods.node_pools import CPUS_PER_GPU
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import RAY_JOBS
from taper_operator.manifests.names import JOB_DIRECTORY, JOB_FILE, WORK_DIRECTORY, JobIdentity
from taper_operator.manifests.pod_template import gpu_template, head_template, submitter_template
from taper_operator.settings.pod_policy import PodPolicy

RAY_VERSION: Final = "2.60.0"
ENTRYPOINT: Final = f"taper run --file {JOB_DIRECTORY}/{JOB_FILE} --output {WORK_DIRECTORY}/output"
# KubeRay would submit the job again to a new head without workers.
NO_HEAD_RESTART: Final = "ray.io/disable-provisioned-head-restart"
# Enough to fetch the last lines of a log.
CLUSTER_TTL_SECONDS: Final = 30
GPU_GROUP: Final = "gpu"
# As many as VeRL's trainer, queue and storage request. Ray only counts CPUs, it pins nothing to them.
HEAD_RAY_CPUS: Final = 12
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"


def ray_job(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """The RayJob of an attempt."""
    spec = job.spec
    metadata = identity.metadata(identity.attempt_name(number), identity.attempt_labels(number))
    metadata["labels"] = metadata["labels"] | _queue_labels(job)
    metadata["annotations"] = {NO_HEAD_RESTART: "true"}
    content: KubeObject = {
        "entrypoint": ENTRYPOINT,
        "submissionMode": spec.submission_mode,
        "suspend": spec.kueue is not None,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": CLUSTER_TTL_SECONDS,
        "backoffLimit": 0,
        "preRunningDeadlineSeconds": spec.node_pools.startup_timeout_seconds,
        "rayClusterSpec": _cluster(job, identity, number, policy),
    }
    if spec.submission_mode == "K8sJobMode":
        content["submitterPodTemplate"] = submitter_template(job, identity, number, policy)
    return RAY_JOBS.manifest(metadata, spec=content)


def _cluster(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    num_pods, num_ranks = job.spec.training.nodes, job.spec.training.ranks
    head_cpus = max(int(cpus_of(job.spec.node_pools.head.cpu or "0")), HEAD_RAY_CPUS)
    gpu_cpus = max(int(cpus_of(job.spec.gpu_pool_cpu)), CPUS_PER_GPU * num_ranks)
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-gpus": "0", "num-cpus": str(head_cpus)},
            "template": head_template(job, identity, number, policy),
        },
        "workerGroupSpecs": [
            {
                "groupName": GPU_GROUP,
                "replicas": num_pods,
                "minReplicas": num_pods,
                "maxReplicas": num_pods,
                # A rank takes one of Ray's GPUs even if it is a CPU process.
                "rayStartParams": {"num-gpus": str(num_ranks), "num-cpus": str(gpu_cpus)},
                "template": gpu_template(job, identity, number, policy),
            }
        ],
    }


def _queue_labels(job: RLHFJob) -> dict[str, str]:
    kueue = job.spec.kueue
    if kueue is None:
        return {}
    priority = {PRIORITY_LABEL: kueue.priority_class} if kueue.priority_class else {}
    return {QUEUE_LABEL: kueue.queue_name} | priority
