"""The API server ends and comes back, with all that it remembered of watches gone."""

from __future__ import annotations

from concurrent.futures import Future

from ..control_plane.cluster import wait_for
from ..scenarios.figures import check
from ..scenarios.job_sandbox import Scene, Stopwatch
from ..scenarios.scenarios import Stage, finished

CONVERGED_SECONDS = 30.0


def test_an_api_server_that_comes_back_finds_all_going_on(
    stage: Stage, played: dict[str, Future[None]]
) -> None:
    finished(played)
    assert stage.operator.is_alive, stage.operator.last_words()
    scene = Scene(stage.cluster, stage.jobs, stage.namespaces[0], "restart", num_nodes=2)
    scene.apply()
    scene.wait_for_attempt(1)
    plane = stage.cluster.plane
    plane.kill_api_server()
    plane.start_api_server()
    watch = Stopwatch()
    wait_for(lambda: scene.apply("restart-2"))
    scene.wait_for_ray_job(1, CONVERGED_SECONDS + 5, "restart-2")
    check("return of the API server to the RayJob that is due, s", watch(), CONVERGED_SECONDS)
    scene.wait_for_attempt(1, name="restart-2")
    assert scene.status()["attempt"] == 1
