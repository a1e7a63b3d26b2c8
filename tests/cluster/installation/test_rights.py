"""The rights that the chart gives the operator are those that it uses, in one namespace, several and all."""

from __future__ import annotations

from concurrent.futures import Future

from ..control_plane.audit_log import requests_of
from ..control_plane.chart_access import rules_of
from ..scenarios.job_sandbox import Scene, scene
from ..scenarios.operator_process import LONG_LEASE, Installation
from ..scenarios.scenarios import RESULT_SECONDS, Stage, each_of, finished, scenario
from ..scenarios.tour import tour

# Asked for by admission, as the right to block an owner's deletion, and never used as a verb.
CHECKED_BY_ADMISSION = {("update", "taper.dev", "rlhfjobs/finalizers")}


def check(installation: Installation) -> None:
    granted = rules_of(installation.access)
    assert granted >= CHECKED_BY_ADMISSION
    requests = requests_of(installation.cluster.plane.audit_log, installation.user)
    assert [each for each in requests if each.status == 403] == []
    assert {each.right for each in requests} == granted - CHECKED_BY_ADMISSION


def tour_under_its_own(stage: Stage, namespace: str, watched: str) -> None:
    """A tour in a namespace, under an operator that no other scenario has."""
    installation = Installation(stage.cluster, [watched], [LONG_LEASE])
    with installation.running():
        tour(Scene(stage.cluster, stage.jobs, namespace, "tour"))
    check(installation)


@scene
def a_tour_in_several_namespaces(scene: Scene) -> None:
    tour(scene)


@scenario
def a_tour_in_one_namespace(stage: Stage) -> None:
    namespace = stage.cluster.new_namespace("one")
    tour_under_its_own(stage, namespace, namespace)


@each_of(__name__)
def test_scenario(played: dict[str, Future[None]], scenario_name: str) -> None:
    played[scenario_name].result(RESULT_SECONDS)


def test_in_several_namespaces_none_is_left_unused(stage: Stage, played: dict[str, Future[None]]) -> None:
    finished(played)
    check(stage.installation)
