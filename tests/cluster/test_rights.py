"""The rights that the chart gives the operator are those that it uses, in one namespace, several and all."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from .audit_log import requests_of
from .chart_access import rules_of
from .cluster import Cluster
from .jobs_api import ScriptedJobs
from .kuberay_stand_in import KubeRayStandIn
from .operator_process import Installation
from .scenarios import Stage, finished
from .scene import Scene
from .tour import tour

# Asked for by admission, as the right to block an owner's deletion, and never used as a verb.
CHECKED_BY_ADMISSION = {("update", "taper.dev", "rlhfjobs/finalizers")}


def check(installation: Installation) -> None:
    granted = rules_of(installation.access)
    assert granted >= CHECKED_BY_ADMISSION
    requests = requests_of(installation.cluster.plane.audit_log, installation.user)
    assert [each for each in requests if each.status == 403] == []
    assert {each.right for each in requests} == granted - CHECKED_BY_ADMISSION


def test_in_several_namespaces(stage: Stage, played: dict[str, Future[None]]) -> None:
    finished(played)
    tour(Scene(stage.cluster, stage.jobs, stage.namespaces[0], "tour"))
    check(stage.installation)


@pytest.mark.parametrize("scope", ["one", "all"])
def test_in_one_and_in_all(cluster: Cluster, jobs: ScriptedJobs, kuberay: KubeRayStandIn, scope: str) -> None:
    namespace = cluster.new_namespace("tour")
    watched = [namespace] if scope == "one" else ["*"]
    installation = Installation(cluster, watched)
    with installation.running():
        tour(Scene(cluster, jobs, namespace, "tour"))
    check(installation)
