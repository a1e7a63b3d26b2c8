"""The ConfigMap of an attempt: the job as that attempt runs it, whatever the RLHFJob becomes.

Beside it lies what the attempt knows the operator by, where it is to report to it.
"""

from __future__ import annotations

from taper_api import RLHFJob
from taper_operator.attempt_job import attempt_job, job_text
from taper_operator.kinds import CONFIG_MAPS
from taper_operator.object_names import JOB_FILE, REPORT_CA_FILE, JobIdentity
from taper_operator.pod_policy import PodPolicy
from taper_operator.resource import KubeObject


def config_map(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """It cannot be changed: pods of one attempt that start at different times read the same."""
    trusted = {REPORT_CA_FILE: policy.report_ca} if policy.report_url else {}
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": identity.metadata(identity.attempt_name(number), identity.attempt_labels(number)),
        "immutable": True,
        "data": {JOB_FILE: job_text(attempt_job(job, identity, number))} | trusted,
    }
