"""An operator that serves all namespaces uses the rights that it is given. Meanwhile no other serves any."""

from __future__ import annotations

from concurrent.futures import Future

from ..scenarios.scenarios import SharedOperator, wait_for_all
from .test_rights import tour_under_its_own


def test_in_all_namespaces(shared: SharedOperator, scenario_results: dict[str, Future[None]]) -> None:
    wait_for_all(scenario_results)
    shared.operator.stop()
    tour_under_its_own(shared, shared.cluster.new_namespace("all"), "*")
