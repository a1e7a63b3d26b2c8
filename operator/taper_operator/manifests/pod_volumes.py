"""The volumes of an attempt's pods: claims of the job's namespace, its ConfigMap, memory, a token.

Invariant (asserted by `tests/operator/manifests/test_pod_template.py`): there is no volume of any other kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from taper_api import RLHFJob
from taper_api.pods.node_pools import Pool
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.names import (
    JOB_DIRECTORY,
    TOKEN_DIRECTORY,
    TOKEN_FILE,
    WORK_DIRECTORY,
    JobIdentity,
)

_TOKEN_SECONDS = 3600


class PodVolume(NamedTuple):
    """A volume of a pod, and its mount in the container."""

    volume: KubeObject
    mount: KubeObject


def pod_volumes(job: RLHFJob, identity: JobIdentity, number: int, pool: Pool) -> Iterator[PodVolume]:
    """The volumes of every pod of an attempt."""
    config = {"configMap": {"name": identity.attempt_name(number)}}
    yield _volume("job", config, JOB_DIRECTORY, is_read_only=True)
    memory = {"emptyDir": {"medium": "Memory", "sizeLimit": str(pool.shared_memory_bytes)}}
    yield _volume("shared-memory", memory, "/dev/shm")
    yield _volume("work", {"emptyDir": {}}, WORK_DIRECTORY)
    yield from _checkpoints(job, identity)
    yield from _model_cache(job)
    for index, data in enumerate(job.spec.volumes.data):
        source = _claim(data.claim_name, is_read_only=data.read_only)
        yield _volume(
            f"data-{index}", source, data.mount_path, is_read_only=data.read_only, sub_path=data.sub_path
        )


def token_volume(identity: JobIdentity, number: int) -> PodVolume:
    """A token that identifies the job and attempt, valid only for reports."""
    token = {
        "audience": token_audience(identity, number),
        "expirationSeconds": _TOKEN_SECONDS,
        "path": TOKEN_FILE,
    }
    source = {"projected": {"sources": [{"serviceAccountToken": token}]}}
    return _volume("report-token", source, TOKEN_DIRECTORY, is_read_only=True)


def token_audience(identity: JobIdentity, number: int) -> str:
    """The audience of report tokens: the API server accepts none with it, the report server none without."""
    return f"taper.dev/rlhfjobs/{identity.uid}/attempts/{number}"


def _checkpoints(job: RLHFJob, identity: JobIdentity) -> Iterator[PodVolume]:
    volume = job.spec.volumes.checkpoints
    if volume is not None:
        source = _claim(volume.claim_name or identity.claim_name)
        yield _volume("checkpoints", source, volume.mount_path, sub_path=volume.sub_path)


def _model_cache(job: RLHFJob) -> Iterator[PodVolume]:
    volume = job.spec.volumes.model_cache
    if volume is None:
        return
    if volume.claim_name is not None:
        source = _claim(volume.claim_name)
    else:
        source = {"emptyDir": {"sizeLimit": volume.size} if volume.size else {}}
    yield _volume("model-cache", source, volume.mount_path, sub_path=volume.sub_path)


def _claim(name: str, *, is_read_only: bool = False) -> KubeObject:
    read_only = {"readOnly": True} if is_read_only else {}
    return {"persistentVolumeClaim": {"claimName": name} | read_only}


def _volume(
    name: str, source: KubeObject, path: str, *, is_read_only: bool = False, sub_path: str | None = None
) -> PodVolume:
    mount: KubeObject = {"name": name, "mountPath": path}
    if is_read_only:
        mount["readOnly"] = True
    if sub_path is not None:
        mount["subPath"] = sub_path
    return PodVolume({"name": name} | source, mount)
