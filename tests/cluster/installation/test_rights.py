"""The rights that the chart gives the operator are those that it uses, in one namespace, several and all."""

from __future__ import annotations

from concurrent.futures import Future

from ..control_plane.audit_log import requests_of
from ..control_plane.chart_access import rules_of
from ..scenarios.job_sandbox import JobSandbox, sandboxed
from ..scenarios.operator_process import LONG_LEASE, Installation
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario, wait_for_all
from ..scenarios.tour import tour

# Required by admission to block an owner's deletion, and never used as a verb.
CHECKED_BY_ADMISSION = {("update", "taper.dev", "rlhfjobs/finalizers")}


def check(installation: Installation) -> None:
    granted = rules_of(installation.access)
    assert granted >= CHECKED_BY_ADMISSION
    requests = requests_of(installation.cluster.plane.audit_log, installation.user)
    assert [each for each in requests if each.status == 403] == []
    assert {each.right for each in requests} == granted - CHECKED_BY_ADMISSION


def tour_under_its_own(shared: SharedOperator, namespace: str, watched: str) -> None:
    """A tour in a namespace, under an operator that no other scenario has."""
    installation = Installation(shared.cluster, [watched], [LONG_LEASE])
    with installation.running():
        tour(JobSandbox(shared.cluster, shared.jobs, namespace, "tour"))
    check(installation)


@sandboxed
def a_tour_in_several_namespaces(sandbox: JobSandbox) -> None:
    tour(sandbox)


@scenario
def a_tour_in_one_namespace(shared: SharedOperator) -> None:
    namespace = shared.cluster.new_namespace("one")
    tour_under_its_own(shared, namespace, namespace)


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)


def test_no_right_in_several_namespaces_is_unused(
    shared: SharedOperator, scenario_results: dict[str, Future[None]]
) -> None:
    wait_for_all(scenario_results)
    check(shared.installation)
