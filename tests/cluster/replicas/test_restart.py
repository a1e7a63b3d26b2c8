"""The API server ends and comes back, with all that it remembered of watches gone."""

from __future__ import annotations

from concurrent.futures import Future

from ..control_plane.cluster import wait_for
from ..scenarios.figures import check
from ..scenarios.job_sandbox import JobSandbox, Stopwatch
from ..scenarios.scenarios import SharedOperator, wait_for_all

CONVERGED_SECONDS = 30.0


def test_after_an_outage_everything_continues(
    shared: SharedOperator, scenario_results: dict[str, Future[None]]
) -> None:
    wait_for_all(scenario_results)
    assert shared.operator.is_alive, shared.operator.last_words()
    sandbox = JobSandbox(shared.cluster, shared.jobs, shared.namespaces[0], "restart", num_nodes=2)
    sandbox.apply()
    sandbox.wait_for_attempt(1)
    plane = shared.cluster.plane
    plane.kill_api_server()
    plane.start_api_server()
    watch = Stopwatch()
    wait_for(lambda: sandbox.apply("restart-2"))
    sandbox.wait_for_ray_job(1, CONVERGED_SECONDS + 5, "restart-2")
    check("return of the API server to the RayJob that is due, s", watch(), CONVERGED_SECONDS)
    sandbox.wait_for_attempt(1, name="restart-2")
    assert sandbox.status()["attempt"] == 1
