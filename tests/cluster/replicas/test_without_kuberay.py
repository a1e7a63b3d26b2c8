"""A cluster to which KubeRay has not come yet, with the operator there already. This runs first."""

from __future__ import annotations

import pytest

from taper_operator.kube.errors import ResourceNotServed
from taper_operator.manifests.kinds import CONFIG_MAPS, RAY_JOBS, SERVICE_ACCOUNTS

from ..control_plane.cluster import Cluster, wait_for
from ..fakes.jobs_api import ScriptedJobs
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.operator_process import Installation


def test_a_job_reports_what_it_waits_for_and_nothing_is_created(api: Cluster, jobs: ScriptedJobs) -> None:
    with pytest.raises(ResourceNotServed):
        api.all(RAY_JOBS, "default")
    sandbox = JobSandbox(api, jobs, api.new_namespace("early"), "early", num_nodes=0)
    with Installation(api, [sandbox.namespace]).running() as operator:
        sandbox.apply()
        wait_for(lambda: sandbox.reason("ClusterReady") == "KubeRayMissing", why=operator.last_words)
        status = sandbox.status()
        assert (status["phase"], status.get("attempt", 0)) == ("Pending", 0)
        assert sandbox.made(CONFIG_MAPS) == sandbox.made(SERVICE_ACCOUNTS) == []
        assert operator.is_ready()
        sandbox.delete_job()
