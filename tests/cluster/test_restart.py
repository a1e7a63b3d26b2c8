"""The API server ends and comes back, with all that it remembered of watches gone."""

from __future__ import annotations

from concurrent.futures import Future

from .cluster import wait_for
from .scenarios import Stage, finished
from .scene import Scene

CONVERGED_SECONDS = 30.0


def test_an_api_server_that_comes_back_finds_all_going_on(
    stage: Stage, played: dict[str, Future[None]]
) -> None:
    finished(played)
    scene = Scene(stage.cluster, stage.jobs, stage.namespaces[0], "restart", num_nodes=2)
    scene.apply()
    scene.wait_for_attempt(1)
    plane = stage.cluster.plane
    plane.kill_api_server()
    plane.start_api_server()
    wait_for(lambda: scene.apply("restart-2"))
    scene.wait_for_ray_job(1, CONVERGED_SECONDS, "restart-2")
    scene.wait_for_attempt(1, name="restart-2")
    assert scene.status()["attempt"] == 1
