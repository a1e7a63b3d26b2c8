"""The fake KubeRay writes what KubeRay 1.7.0 writes, state by state.

The traces in `traces/` are KubeRay's own. With `TAPER_TEST_KUBERAY` this test is about KubeRay itself, and
with `TAPER_RECORD_TRACES=1` it writes down what that does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from taper_operator.manifests.kinds import PODS

from ..control_plane.cluster import wait_for
from ..fakes.fake_kueue import admit, evict
from ..scenarios.bare_ray_job import BareRayJob
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario
from ..scenarios.traces import Recorder

FILE = Path(__file__).parent / "traces" / "kuberay-1.7.0.json"
IS_RECORDING = os.environ.get("TAPER_RECORD_TRACES") == "1"


def ends(status: str) -> Callable[[BareRayJob], None]:
    def play(ray_job: BareRayJob) -> None:
        ray_job.make()
        ray_job.wait_for(job="RUNNING")
        ray_job.end(status)
        ray_job.wait_for(job=status)
        time.sleep(5)  # the RayCluster goes, of which nothing is written
        ray_job.delete()

    return play


def deleted(ray_job: BareRayJob) -> None:
    ray_job.make()
    ray_job.wait_for(job="RUNNING")
    ray_job.delete()


def suspended(ray_job: BareRayJob) -> None:
    ray_job.make()
    ray_job.wait_for(job="RUNNING")
    evict(ray_job.sandbox.cluster, ray_job.sandbox.namespace, ray_job.name)
    ray_job.wait_for(deployment="Suspended")
    admit(ray_job.sandbox.cluster, ray_job.sandbox.namespace, ray_job.name, {})
    ray_job.wait_for(job="RUNNING")


def queued(ray_job: BareRayJob) -> None:
    ray_job.make(suspend=True)
    ray_job.wait_for(deployment="Suspended")
    admit(ray_job.sandbox.cluster, ray_job.sandbox.namespace, ray_job.name, {})
    ray_job.wait_for(job="RUNNING")


def head_lost(ray_job: BareRayJob) -> None:
    ray_job.make()
    ray_job.wait_for(job="RUNNING")
    ray_job.sandbox.cluster.delete(PODS, ray_job.pod("head"))
    ray_job.wait_for(deployment="Failed")


def worker_lost(ray_job: BareRayJob) -> None:
    ray_job.make()
    ray_job.wait_for(job="RUNNING")
    lost = ray_job.pod("worker")
    ray_job.sandbox.cluster.delete(PODS, lost)
    wait_for(lambda: ray_job.pod("worker")["metadata"]["uid"] != lost["metadata"]["uid"], 60)
    ray_job.end("FAILED")
    ray_job.wait_for(deployment="Failed")


def never_ready(ray_job: BareRayJob) -> None:
    ray_job.sandbox.cluster.taint(ray_job.sandbox.nodes[0], "NoSchedule")
    ray_job.make(preRunningDeadlineSeconds=5)
    ray_job.wait_for(deployment="Failed")


def invalid(ray_job: BareRayJob) -> None:
    ray_job.make(shutdownAfterJobFinishes=False)
    ray_job.wait_for(deployment="ValidationFailed")


SCRIPTS: dict[str, Callable[[BareRayJob], None]] = {
    "succeeded": ends("SUCCEEDED"),
    "failed": ends("FAILED"),
    "stopped": ends("STOPPED"),
    **{
        play.__name__: play
        for play in (deleted, suspended, queued, head_lost, worker_lost, never_ready, invalid)
    },
}


@scenario
def ray_jobs_follow_kuberays_recorded_states(shared: SharedOperator) -> None:
    namespace = shared.cluster.new_namespace("traces")
    recorder = Recorder(shared.cluster.new_api(), namespace)
    sandboxes = {
        name: JobSandbox(shared.cluster, shared.jobs, namespace, name.replace("_", "-")) for name in SCRIPTS
    }
    bare_ray_jobs = {name: BareRayJob(sandbox, recorder) for name, sandbox in sandboxes.items()}
    try:
        with ThreadPoolExecutor(len(SCRIPTS)) as threads:
            for future in [threads.submit(play, bare_ray_jobs[name]) for name, play in SCRIPTS.items()]:
                future.result()
    finally:
        recorder.close()
    traces = {name: ray_job.trace() for name, ray_job in bare_ray_jobs.items()}
    if IS_RECORDING:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(traces, indent=1, sort_keys=True) + "\n")
    expected = json.loads(FILE.read_text())
    for name in SCRIPTS:
        assert traces[name] == expected[name], name


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
