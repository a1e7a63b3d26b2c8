"""What a RayJob hands in runs on a real Ray head, and its last words come back in the RayJob's status."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import Future

import pytest

from taper_operator.reconcile.verdict import failure_cause

from ..fakes import real_kuberay
from ..fakes.jobs_api import RayHeadJobs
from ..fakes.ray_head import ray_head
from ..scenarios.bare_ray_job import BareRayJob
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario
from ..scenarios.traces import Recorder

LAST_WORDS = 'TAPER_ERROR {"reason": "RewardFailed", "message": "score() raised"}'


def driver(script: str) -> str:
    return shlex.join([sys.executable, "-c", script])


@scenario
def a_real_head_runs_submitted_jobs(shared: SharedOperator) -> None:
    if shared.heads is None:
        pytest.skip(f"with {real_kuberay.VARIABLE} the heads of all jobs are scripted")
    namespace = shared.cluster.new_namespace("heads")
    recorder = Recorder(shared.cluster.new_api(), namespace)
    with ray_head("--num-cpus=2", "--num-gpus=0") as url:
        shared.heads[namespace] = RayHeadJobs(url)
        good, bad = (
            BareRayJob(JobSandbox(shared.cluster, shared.jobs, namespace, name), recorder)
            for name in ("good", "bad")
        )
        good.make(entrypoint=driver("print(6 * 7)"))
        bad.make(entrypoint=driver(f"print('before'); print('{LAST_WORDS}'); raise SystemExit(1)"))
        good.wait_for(deployment="Complete", job="SUCCEEDED")
        bad.wait_for(deployment="Failed", job="FAILED", reason="AppFailed")
        cause = failure_cause(bad.obj()["status"]["message"])
        assert (cause.reason, cause.message) == ("RewardFailed", "score() raised")
    recorder.close()


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
