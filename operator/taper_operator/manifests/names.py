"""Names, labels and paths of a job's objects: manifests are built with them, and the plan looks for them.

Invariants (asserted by `tests/operator/manifests/test_ray_job.py` and `test_attempt.py`):
- the name of a RayJob has at most 47 characters, for every job that the API server accepts;
- every created object has the labels of its job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_operator.kube.json_field import text_at
from taper_operator.kube.resource import KubeObject, ObjectKey, key_of
from taper_operator.manifests.kinds import RLHF_JOBS

JOB_LABEL = "taper.dev/job"
JOB_UID_LABEL = "taper.dev/job-uid"
ATTEMPT_LABEL = "taper.dev/attempt"
ROLE_LABEL = "taper.dev/role"
HEAD_ROLE = "head"
GPU_ROLE = "gpu"
SUBMITTER_ROLE = "submitter"
DIGEST_ANNOTATION = "taper.dev/digest"

JOB_DIRECTORY = "/etc/taper"
JOB_FILE = "job.yaml"
WORK_DIRECTORY = "/var/lib/taper"
TOKEN_DIRECTORY = "/var/run/secrets/taper.dev"
TOKEN_FILE = "token"
REPORT_CA_FILE = "report-ca.crt"

GCS_PORT = 6379
DASHBOARD_PORT = 8265
RAY_METRICS_PORT = 8080
METRICS_PORT_NAME = "taper-metrics"
# KubeRay's own name: with another one the head's Service would list the port twice and be rejected.
RAY_METRICS_PORT_NAME = "metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdentity:
    """Identifies a job. uid: of the RLHFJob, which owns the objects"""

    name: str
    namespace: str
    uid: str

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object of the job."""
        return {
            "app.kubernetes.io/managed-by": "taper-operator",
            "app.kubernetes.io/name": "taper",
            "app.kubernetes.io/instance": self.name,
        } | self.selector

    @property
    def selector(self) -> dict[str, str]:
        """Labels that select the pods of the job."""
        return {JOB_LABEL: self.name, JOB_UID_LABEL: self.uid}

    @property
    def shared_name(self) -> str:
        """Name of the objects that all attempts share. The prefix avoids clashes with users' names."""
        return f"taper-{self.name}"

    @property
    def claim_name(self) -> str:
        """Name of the claim for checkpoints, if the operator creates it."""
        return f"{self.name}-checkpoints"

    def attempt_name(self, number: int) -> str:
        """Name of the RayJob of an attempt, and of its ConfigMap."""
        assert 1 <= number <= MAX_ATTEMPTS, number
        return f"{self.name}-{number}"

    def attempt_labels(self, number: int) -> dict[str, str]:
        return self.labels | {ATTEMPT_LABEL: str(number)}

    def metadata(self, name: str, labels: dict[str, str] | None = None) -> KubeObject:
        """Metadata of an object that is deleted with the job."""
        owner = {
            "apiVersion": RLHF_JOBS.api_version,
            "kind": RLHF_JOBS.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": labels or self.labels,
            "ownerReferences": [owner],
        }


def identity_of(resource: KubeObject) -> JobIdentity:
    """The identity of a job as the API server returns it."""
    return JobIdentity(uid=resource["metadata"]["uid"], **key_of(resource)._asdict())


def job_keys(obj: KubeObject) -> Iterator[ObjectKey]:
    """The key of the job that an object is labelled with, if it is."""
    metadata = obj["metadata"]
    name = (metadata.get("labels") or {}).get(JOB_LABEL)
    if name:
        yield ObjectKey(metadata.get("namespace", ""), name)


def attempt_number(obj: KubeObject) -> int:
    """The number of the attempt that an object is labelled with, 0 without."""
    number = text_at(obj, "metadata", "labels", ATTEMPT_LABEL)
    return int(number) if number.isascii() and number.isdecimal() else 0
