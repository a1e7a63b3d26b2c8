"""An operator that serves all namespaces uses the rights that it is given. Meanwhile no other serves any."""

from __future__ import annotations

from concurrent.futures import Future

from ..scenarios.scenarios import Stage, finished
from .test_rights import tour_under_its_own


def test_in_all_namespaces(stage: Stage, played: dict[str, Future[None]]) -> None:
    finished(played)
    stage.operator.stop()
    tour_under_its_own(stage, stage.cluster.new_namespace("all"), "*")
