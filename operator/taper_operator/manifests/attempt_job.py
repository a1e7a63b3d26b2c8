"""The job as one attempt runs it, and the ConfigMap that keeps it, whatever happens to the RLHFJob later.

It is the author's job plus what only the operator knows: where the attempt saves checkpoints, and where
Prometheus finds its replicas. Each attempt saves to a directory of its own, named after its number. So a pod
of an earlier attempt that is still alive can never write into a later one's checkpoints. `taper run` resumes
from the newest checkpoint in the directories beside its own.

Invariants (asserted by `tests/operator/manifests/test_attempt_job.py`):
- no two attempts, of this job or of an earlier one of the same name, save to the same directory;
- parsing the text gives the very same job.
"""

from __future__ import annotations

import posixpath
from typing import Any

import yaml

from taper_api import RLHFJob
from taper_api.job.attempt_directory import AttemptDirectory
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import CONFIG_MAPS
from taper_operator.manifests.names import JOB_FILE, REPORT_CA_FILE, WORK_DIRECTORY, JobIdentity
from taper_operator.manifests.yaml_dumper import ManifestDumper
from taper_operator.settings.pod_policy import PodPolicy

_METRICS_PORTS = (8090, 18090, 28090, 38090, 48090)
_LOOPBACK = "127.0.0.1"
_NODE = "node"


def attempt_job(job: RLHFJob, identity: JobIdentity, number: int) -> RLHFJob:
    """The job that the attempt's `taper run` gets."""
    spec = job.spec
    checkpoints = spec.training.checkpoints.model_copy(
        update={"directory": checkpoint_directory(job, identity, number)}
    )
    metrics = spec.rollout.metrics.model_copy(
        update={"port": metrics_port(job), "host": metrics_host(job)},
    )
    changed = {
        "training": spec.training.model_copy(update={"checkpoints": checkpoints}),
        "rollout": spec.rollout.model_copy(update={"metrics": metrics}),
    }
    return job.model_copy(update={"spec": spec.model_copy(update=changed)})


def checkpoint_directory(job: RLHFJob, identity: JobIdentity, number: int) -> str:
    """The attempt's own checkpoint directory, below the one that all attempts share."""
    volume = job.spec.volumes.checkpoints
    root = volume.mount_path if volume is not None else f"{WORK_DIRECTORY}/checkpoints"
    shared = posixpath.normpath(
        posixpath.join(root, job.spec.training.checkpoints.directory or identity.name)
    )
    return posixpath.join(shared, AttemptDirectory(identity.uid, number).name)


def metrics_port(job: RLHFJob) -> int:
    """Port of the replicas' metrics on every node: the job's own, or one that no status server uses."""
    rollout, training = job.spec.rollout, job.spec.training
    if rollout.metrics.port is not None:
        return rollout.metrics.port
    num_replicas = training.ranks * training.nodes // rollout.footprint
    first = rollout.port or 0
    return next(port for port in _METRICS_PORTS if not first <= port < first + num_replicas)


def metrics_host(job: RLHFJob) -> str:
    """The job's host, or the node's address in place of loopback, which Prometheus could not reach."""
    host = job.spec.rollout.metrics.host
    return _NODE if host == _LOOPBACK else host


def job_text(job: RLHFJob) -> str:
    """The job as YAML."""
    content: dict[str, Any] = job.model_dump(mode="json", by_alias=True)
    return str(yaml.dump(content, Dumper=ManifestDumper, allow_unicode=False, sort_keys=False, width=4096))


def config_map(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """The attempt's job and, if jobs report, the CA certificates by which it verifies the operator.

    Immutable: pods of one attempt that start at different times read the same.
    """
    trusted = {REPORT_CA_FILE: policy.report_ca.text} if policy.report_url else {}
    metadata = identity.metadata(identity.attempt_name(number), identity.attempt_labels(number))
    data = {JOB_FILE: job_text(attempt_job(job, identity, number))} | trusted
    return CONFIG_MAPS.manifest(metadata, immutable=True, data=data)
