"""The PersistentVolumeClaim for checkpoints that the operator creates if a job requests a size.

It has no owner: checkpoints outlive the job, and a new job of the same name finds them.
"""

from __future__ import annotations

from taper_api import RLHFJob
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import CLAIMS
from taper_operator.manifests.names import JOB_LABEL, JOB_UID_LABEL, JobIdentity


def checkpoints_claim(job: RLHFJob, identity: JobIdentity) -> KubeObject | None:
    """None if the job names an existing claim, or none."""
    volume = job.spec.volumes.checkpoints
    if volume is None or volume.size is None:
        return None
    spec: KubeObject = {
        "accessModes": [volume.access_mode],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class_name is not None:
        spec["storageClassName"] = volume.storage_class_name
    labels = {name: value for name, value in identity.labels.items() if name != JOB_UID_LABEL}
    assert JOB_LABEL in labels
    metadata = {"name": identity.claim_name, "namespace": identity.namespace, "labels": labels}
    return CLAIMS.manifest(metadata, spec=spec)
