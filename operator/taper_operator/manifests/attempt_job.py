"""The job as one attempt runs it, and its text in the attempt's ConfigMap.

The author's job with what only the operator knows put in: where the attempt saves, and where
Prometheus finds its replicas. The attempt's number fences the directory that it saves to, so that
a pod of an earlier attempt that lives on unseen can never write into what a later one has made:
it has another directory. `taper run` goes on from the newest checkpoint in the directories next to its own.

Invariants (asserted by `tests/operator/manifests/test_attempt_job.py`):
- no two attempts, of this job or of one of the same name before it, save to the same directory;
- the text is read back as the very same job.
"""

from __future__ import annotations

import posixpath
from typing import Any

import yaml

from taper_api import RLHFJob
from taper_api.job.attempt_directory import AttemptDirectory
from taper_operator.manifests.names import WORK_DIRECTORY, JobIdentity

_METRICS_PORTS = (8090, 18090, 28090, 38090, 48090)
_LOOPBACK = "127.0.0.1"
_NODE = "node"


class _Dumper(yaml.SafeDumper):
    """Quotes every text: `1e3` and `off` are texts to some readers of YAML and not to others."""


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def attempt_job(job: RLHFJob, identity: JobIdentity, number: int) -> RLHFJob:
    """The job that `taper run` is given."""
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
    """Where an attempt saves: a directory of its own below the one that all attempts share."""
    volume = job.spec.volumes.checkpoints
    root = volume.mount_path if volume is not None else f"{WORK_DIRECTORY}/checkpoints"
    shared = posixpath.normpath(
        posixpath.join(root, job.spec.training.checkpoints.directory or identity.name)
    )
    return posixpath.join(shared, AttemptDirectory(identity.uid, number).name)


def metrics_port(job: RLHFJob) -> int:
    """Port of the replicas' metrics on every node: the job's own, or one that no status server takes."""
    rollout, training = job.spec.rollout, job.spec.training
    if rollout.metrics.port is not None:
        return rollout.metrics.port
    num_replicas = training.ranks * training.nodes // rollout.footprint
    first = rollout.port or 0
    return next(port for port in _METRICS_PORTS if not first <= port < first + num_replicas)


def metrics_host(job: RLHFJob) -> str:
    """The default is for a machine of one's own; Prometheus comes from another one."""
    host = job.spec.rollout.metrics.host
    return _NODE if host == _LOOPBACK else host


def job_text(job: RLHFJob) -> str:
    """The job as YAML."""
    content: dict[str, Any] = job.model_dump(mode="json", by_alias=True)
    return str(yaml.dump(content, Dumper=_Dumper, allow_unicode=False, sort_keys=False, width=4096))
