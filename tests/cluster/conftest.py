"""One cluster for all tests of this folder; each has namespaces and nodes of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml

from .control_plane.child_process import Remover
from .control_plane.cluster import Cluster
from .control_plane.cluster_tools import NoTools
from .control_plane.control_plane import ControlPlane
from .control_plane.foreign_definitions import definitions
from .fakes import real_kuberay
from .fakes.fake_kuberay import FakeKubeRay
from .fakes.jobs_api import JobsByNamespace, ScriptedJobs
from .fakes.real_kuberay import RealKubeRay
from .scenarios.figures import figures
from .scenarios.operator_process import LONG_LEASE, Installation
from .scenarios.scenarios import SharedOperator, requested_scenarios, running_scenarios

CRDS = Path(__file__).parents[2] / "manifests" / "crds"
KubeRay = FakeKubeRay | RealKubeRay
# How long a head may not answer: no test waits for KubeRay's 300 s.
UNREACHABLE_SECONDS = 30
# First: before KubeRay's CRDs are installed. Last: what ends an API server or an operator that others need.
# Training is the very last: it leaves the API server so little CPU that an operator's lease can expire.
FIRST = ("test_without_kuberay",)
LAST = ("test_restart", "test_rights_in_all", "test_whole_chain")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    turns = {name: index for index, name in enumerate((*FIRST, "", *LAST))}
    items.sort(key=lambda item: turns.get(item.path.stem, turns[""]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, with the limits."""
    found = figures()
    if found:
        terminalreporter.section("figures: the worst of each")
    for figure in found:
        times = f" (of {figure.number})" if figure.number > 1 else ""
        terminalreporter.line(f"{figure.name}: {figure.worst:.4g}, at most {figure.at_most:g}{times}")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and the API server."""
    folder = Path(tempfile.mkdtemp(prefix="taper-cluster-"))
    remover = Remover(folder)
    try:
        plane = ControlPlane(folder)
    except NoTools as error:
        remover.close()
        pytest.skip(str(error))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        _keep_logs(folder)
        remover.close()


def _keep_logs(folder: Path) -> None:
    """Keep the logs of all programs, for debugging a failure."""
    kept = os.environ.get("TAPER_CLUSTER_LOGS")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        for log in folder.glob("*.log"):
            shutil.copy(log, kept)


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> Cluster:
    """The API server, with Taper's kinds."""
    cluster = Cluster(control_plane)
    cluster.define(*(yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))))
    return cluster


@pytest.fixture(scope="session")
def cluster(api: Cluster) -> Cluster:
    """The whole cluster, with KubeRay's kinds. Its controllers start once all kinds are defined."""
    api.define(*definitions())
    try:
        api.plane.start_controllers()
    except NoTools as error:
        pytest.skip(str(error))
    return api


@pytest.fixture(scope="session")
def jobs() -> ScriptedJobs:
    """Runs the jobs that are submitted to heads."""
    return ScriptedJobs()


@pytest.fixture(scope="session")
def kuberay(cluster: Cluster, jobs: ScriptedJobs) -> Iterator[KubeRay]:
    """A fake KubeRay for all namespaces, or the real one where it is configured."""
    kuberay: KubeRay
    if real_kuberay.program() is not None:
        kuberay = RealKubeRay(cluster, jobs, unreachable_seconds=UNREACHABLE_SECONDS)
    else:
        kuberay = FakeKubeRay(
            cluster.new_api(),
            JobsByNamespace(jobs),
            period_seconds=2.0,
            unreachable_seconds=UNREACHABLE_SECONDS,
        )
    kuberay.start()
    yield kuberay
    kuberay.stop()


@pytest.fixture(scope="session")
def shared(cluster: Cluster, jobs: ScriptedJobs, kuberay: KubeRay) -> Iterator[SharedOperator]:
    """An operator that serves two namespaces."""
    namespaces = (cluster.new_namespace("team"), cluster.new_namespace("team"))
    installation = Installation(cluster, namespaces, ["--allowed-secrets=known", LONG_LEASE])
    with installation.running() as operator:
        yield SharedOperator(
            cluster=cluster,
            jobs=jobs,
            heads=kuberay.jobs.heads if isinstance(kuberay, FakeKubeRay) else None,
            installation=installation,
            operator=operator,
            namespaces=namespaces,
        )


@pytest.fixture(scope="session")
def scenario_results(
    shared: SharedOperator, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[None]]]:
    """The results of all scenarios that the collected tests need."""
    with running_scenarios(shared, requested_scenarios(request.session.items)) as futures:
        yield futures
