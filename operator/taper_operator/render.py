"""Renders what the operator would create for a job's first attempt: `taper-operator render -f job.yaml`.

Connects to no API server, and refuses the jobs that the operator would refuse.
"""

from __future__ import annotations

from typing import Final

import yaml

from taper_api import JobError, RLHFJob
from taper_operator.manifests.attempt import attempt_objects, shared_objects
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.yaml_dumper import ManifestDumper
from taper_operator.settings.pod_policy import PodPolicy

# The owner does not exist yet.
UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"


def rendered(job: RLHFJob, policy: PodPolicy) -> str:
    """The objects in the order of their creation. Raises JobError."""
    problems = list(policy.refusals(job.spec))
    if problems:
        raise JobError(problems)
    identity = JobIdentity(
        name=job.metadata.name, namespace=job.metadata.namespace or "default", uid=UNKNOWN_UID
    )
    made = [
        *shared_objects(job, identity, policy, has_pod_monitors=True),
        *attempt_objects(job, identity, 1, policy),
    ]
    return str(yaml.dump_all([obj for _, obj in made], Dumper=ManifestDumper, sort_keys=False))
