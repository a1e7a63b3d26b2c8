"""The ConfigMap of an attempt: the job as that attempt runs it, whatever happens to the RLHFJob later.

If jobs report, it also holds the CA certificates by which the attempt verifies the operator.
"""

from __future__ import annotations

from taper_api import RLHFJob
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.attempt_job import attempt_job, job_text
from taper_operator.manifests.kinds import CONFIG_MAPS
from taper_operator.manifests.names import JOB_FILE, REPORT_CA_FILE, JobIdentity
from taper_operator.settings.pod_policy import PodPolicy


def config_map(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """Immutable: pods of one attempt that start at different times read the same."""
    trusted = {REPORT_CA_FILE: policy.report_ca.text} if policy.report_url else {}
    metadata = identity.metadata(identity.attempt_name(number), identity.attempt_labels(number))
    data = {JOB_FILE: job_text(attempt_job(job, identity, number))} | trusted
    return CONFIG_MAPS.manifest(metadata, immutable=True, data=data)
