"""From `kubectl apply` of the CPU sample to its end: all is real except KubeRay and the containers.

The operator runs as a process with the chart's rights, and receives the job's reports over TLS. What the
RayJob hands in trains on a real Ray head: `taper run`, with the variables, the ConfigMap and the
token of the head's pod (`pod_files.py`).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
import yaml
from prometheus_client.parser import text_string_to_metric_families

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.manifests.names import HEAD_ROLE

from ...operator.certificates import make_certificates
from ..control_plane.audit_log import Request, requests_of
from ..control_plane.certificates import LOOPBACK
from ..control_plane.chart_access import access_objects, rules_of
from ..control_plane.cluster import Cluster, wait_for
from ..control_plane.control_plane import free_ports
from ..control_plane.kubectl import Kubectl
from ..fakes import real_kuberay
from ..fakes.fake_kuberay import FakeKubeRay
from ..fakes.jobs_api import HeadUnreachable, Prepared, RayHeadJobs, ScriptedJobs
from ..fakes.pod_files import PodFiles
from ..fakes.process_family import ProcessFamily
from ..fakes.ray_head import ray_head
from ..fakes.real_kuberay import RealKubeRay
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.operator_process import LONG_LEASE, Installation
from ..scenarios.scenarios import wait_for_all

pytestmark = pytest.mark.timeout(900)

SAMPLE = Path(__file__).parents[3] / "manifests" / "samples" / "cpu.yaml"
# Where images/rollout has what the sample names.
IMAGE_SAMPLE = "/opt/taper/sample"
# Long enough for a busy machine.
TRAINED_SECONDS = 480.0
GONE_SECONDS = 60.0
HEAD_SECONDS = 90.0
LOOK_SECONDS = 1.0
# Of the head and of the GPU pool together, for here they are one machine.
RAY_CPUS, RAY_GPUS = 18, 2
REVIEW_TOKENS = ("create", "authentication.k8s.io", "tokenreviews")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the job left in each part of the chain.

    ray_job, status: at the job's end, the latter of the RLHFJob
    reported_steps: what the status said of progress, whenever it was looked at
    summary: that `taper run` wrote
    pauses_served: number and seconds of the switches' pauses, as last scraped from the replica
    reports: how many the operator has accepted, and refused
    requests: of the operator to the API server
    granted, granted_without: rights of the operator, and of one that receives no reports
    living_actors, remains, survivors: of Ray, of the API server and of this machine, once all is over
    """

    ray_job: KubeObject
    status: dict[str, Any]
    reported_steps: list[int]
    summary: dict[str, Any]
    pauses_served: tuple[float, float]
    reports: dict[str, float]
    requests: list[Request]
    granted: set[tuple[str, str, str]]
    granted_without: set[tuple[str, str, str]]
    living_actors: list[str]
    remains: list[str]
    survivors: list[str]


@pytest.fixture(scope="module")
def chain(
    cluster: Cluster,
    jobs: ScriptedJobs,
    kuberay: FakeKubeRay | RealKubeRay,
    scenario_results: dict[str, Future[None]],
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_sample: Callable[..., Any],
) -> Chain:
    if not isinstance(kuberay, FakeKubeRay):
        pytest.skip(f"with {real_kuberay.VARIABLE} the heads of all jobs are scripted")
    # Training needs the cores for itself.
    wait_for_all(scenario_results)
    folder = tmp_path_factory.mktemp("chain")
    # The job is as it is; its model has few weights, of which nothing here depends.
    make_tiny_sample(folder / "sample")
    sandbox = JobSandbox(cluster, jobs, cluster.new_namespace("chain"), "cpu")
    kubectl = Kubectl(cluster.plane, sandbox.namespace)
    installation = Installation(cluster, [sandbox.namespace], operator_flags(folder), receives_reports=True)
    (metrics_port,) = free_ports(1)
    family = ProcessFamily()
    with (
        installation.running() as operator,
        head_of(kuberay, sandbox, folder) as head,
    ):
        kubectl("apply", "--filename", sample_for(folder, metrics_port))
        reported_steps, pauses_served = follow(sandbox, head, family, metrics_port)
        # Written beside the rest of the status, at its own time.
        sandbox.wait_for_status(lambda status: status["progress"]["step"] == status["progress"]["steps"])
        living_actors = wait_until_empty(head.living_actors)
        status, ray_job = sandbox.status(), sandbox.wait_for_ray_job(1)
        reports = samples_of(operator.page("/metrics") or "", "taper_operator_reports_total")
        kubectl("delete", RLHF_JOBS.plural, sandbox.name)
        remains = wait_until_empty(sandbox.remains)
    return Chain(
        ray_job=ray_job,
        status=status,
        reported_steps=reported_steps,
        summary=json.loads((folder / "pod" / "work" / "output" / "summary.json").read_text()),
        pauses_served=pauses_served,
        reports={labels["result"]: value for labels, value in reports},
        requests=requests_of(cluster.plane.audit_log, installation.user),
        granted=rules_of(installation.access),
        granted_without=rules_of(access_objects(installation.namespace, [sandbox.namespace])),
        living_actors=living_actors,
        remains=remains,
        survivors=family.survivors(GONE_SECONDS),
    )


def operator_flags(folder: Path) -> list[str]:
    """Have the operator listen to jobs, with a Lease that outlasts what training takes from the cores."""
    files = make_certificates(folder / "tls")
    (port,) = free_ports(1)
    return [
        LONG_LEASE,
        f"--report-url=https://{LOOPBACK}:{port}",
        f"--report-address={LOOPBACK}:{port}",
        f"--report-ca={files.ca}",
        f"--report-certificate={files.certificate}",
        f"--report-key={files.key}",
    ]


def sample_for(folder: Path, metrics_port: int) -> Path:
    """The sample as it is, but for where its metrics are: its pods have the network of this machine."""
    job = yaml.safe_load(SAMPLE.read_text())
    job["spec"]["rollout"]["metrics"] = {"host": "localhost", "port": metrics_port}
    file = folder / SAMPLE.name
    file.write_text(yaml.safe_dump(job))
    return file


@contextmanager
def head_of(kuberay: FakeKubeRay, sandbox: JobSandbox, folder: Path) -> Iterator[RayHeadJobs]:
    """A Ray head to which KubeRay hands in the sandbox's jobs, as if it were the pod that is there for it."""

    def prepare(ray_job: KubeObject) -> Prepared:
        (pod,) = sandbox.pods(1, HEAD_ROLE)
        files = PodFiles(sandbox.cluster, pod, folder / "pod", {IMAGE_SAMPLE: folder / "sample"})
        return files.here(ray_job["spec"]["entrypoint"]), image | files.variables()

    (folder / "tmp").mkdir()
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    image = {"PATH": programs, "TMPDIR": str(folder / "tmp")}
    with ray_head(f"--num-cpus={RAY_CPUS}", f"--num-gpus={RAY_GPUS}") as url:
        wait_for(lambda: takes_jobs(RayHeadJobs(url)), HEAD_SECONDS)
        head = RayHeadJobs(url, prepare)
        kuberay.jobs.heads[sandbox.namespace] = head
        try:
            yield head
        finally:
            del kuberay.jobs.heads[sandbox.namespace]


def takes_jobs(head: RayHeadJobs) -> bool:
    """Whether its agent, which starts drivers, is up: it comes later than the rest."""
    try:
        if head.info("first") is None:
            head.submit("first", {"spec": {"entrypoint": "true"}})
        found = head.info("first")
    except HeadUnreachable:
        return False
    return found is not None and found.status == "SUCCEEDED"


def follow(
    sandbox: JobSandbox, head: RayHeadJobs, family: ProcessFamily, metrics_port: int
) -> tuple[list[int], tuple[float, float]]:
    """Poll the job until it is complete; returns the steps in its status, and the pauses in its metrics."""
    reported_steps: list[int] = []
    pauses_served = (0.0, 0.0)
    reported: dict[str, Any] = {}

    def is_over() -> bool:
        nonlocal pauses_served
        time.sleep(LOOK_SECONDS)
        family.look()
        served = page(metrics_port)
        number, seconds = (
            sum(value for _, value in samples_of(served, f"taper_pause_seconds_{part}"))
            for part in ("count", "sum")
        )
        pauses_served = max(pauses_served, (number, seconds))
        status = sandbox.status()
        reported_steps.append(status.get("progress", {}).get("step", 0))
        reported.update((sandbox.ray_job(1) or {}).get("status", {}))
        has_lost = status.get("failures") or status.get("disruptions")
        return status.get("phase") == "Complete" or bool(has_lost)

    def why() -> str:
        return f"{sandbox.status()}\n{reported}\n{head.log(reported.get('jobId', ''))}"

    wait_for(is_over, TRAINED_SECONDS, why=why)
    assert sandbox.status()["phase"] == "Complete", why()
    return reported_steps, pauses_served


def page(port: int) -> str:
    """The replica's metrics; empty while it does not answer."""
    try:
        answer = urllib3.request("GET", f"http://{LOOPBACK}:{port}/metrics", timeout=2.0, retries=False)
    except urllib3.exceptions.HTTPError:
        return ""
    return answer.data.decode()


def samples_of(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each sample of that name."""
    return [
        (each.labels, each.value)
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name
    ]


def wait_until_empty(ask: Callable[[], list[str]]) -> list[str]:
    """What is left after a while."""
    left = ask()

    def is_empty() -> bool:
        nonlocal left
        left = ask()
        return not left

    with suppress(AssertionError):
        wait_for(is_empty, GONE_SECONDS)
    return left


def test_the_job_is_complete(chain: Chain) -> None:
    assert chain.status["phase"] == "Complete"
    assert chain.ray_job["status"]["jobStatus"] == "SUCCEEDED"
    assert [each["number"] for each in chain.status["attempts"]] == [1]
    assert chain.summary["outcome"] == "completed"


def test_ray_had_what_the_pods_would_have_given_it(chain: Chain) -> None:
    cluster = chain.ray_job["spec"]["rayClusterSpec"]
    params = [group["rayStartParams"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert sum(int(each["num-cpus"]) for each in params) == RAY_CPUS
    assert sum(int(each["num-gpus"]) for each in params) == RAY_GPUS


def test_the_status_showed_progress_up_to_the_last_step(chain: Chain) -> None:
    progress = chain.status["progress"]
    assert (progress["attempt"], progress["step"], progress["steps"]) == (1, 2, 2)
    assert chain.summary["steps"] == 2
    assert progress["reward"] == pytest.approx(chain.summary["reward_last"])
    assert progress["secondsPerStep"] > 0
    assert chain.reported_steps == sorted(chain.reported_steps)


def test_the_status_shows_the_switches_of_the_run(chain: Chain) -> None:
    rollout, summary = chain.status["rollout"], chain.summary
    assert rollout["switches"] == summary["switches"] >= 1
    assert rollout["abortedSwitches"] == summary["switches_aborted"]
    pauses = [switch["pause_seconds"] for switch in summary["gains"]]
    assert chain.pauses_served == (summary["switches"], pytest.approx(sum(pauses)))
    assert rollout["pauseP50Seconds"] == pytest.approx(statistics.median(pauses))
    assert rollout["pauseP99Seconds"] == pytest.approx(float(np.quantile(pauses, 0.99)))
    assert sum(each["replicas"] for each in rollout["layouts"]) == 1
    gains = [switch["gain_seconds"] for switch in summary["gains"]]
    saved = [RAY_GPUS * gain for gain in gains if gain is not None]
    assert rollout.get("savedGpuSeconds") == (pytest.approx(sum(saved)) if saved else None)
    assert rollout.get("regret") == pytest.approx(summary["regret_mean"])


def test_reports_are_accepted_with_the_pods_token(chain: Chain) -> None:
    assert chain.reports["accepted"] >= 2
    assert chain.reports.keys().isdisjoint({"unauthenticated", "stale_attempt", "malformed", "not_found"})


def test_the_operator_reviews_tokens_and_makes_no_forbidden_request(chain: Chain) -> None:
    assert chain.granted - chain.granted_without == {REVIEW_TOKENS}
    assert REVIEW_TOKENS in {each.right for each in chain.requests}
    assert [each for each in chain.requests if each.status == 403] == []


def test_nothing_is_left(chain: Chain) -> None:
    assert (chain.living_actors, chain.remains, chain.survivors) == ([], [], [])
