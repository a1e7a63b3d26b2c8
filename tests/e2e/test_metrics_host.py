"""The metrics host as an actor on a real Ray: shared by a node's replicas, and never blocking them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from taper_api import load_job
from taper_rollout.events import MetricsServed, StageProgress, Step
from taper_rollout.verl.metrics import host as module
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint
from taper_rollout.verl.metrics.host import MAX_PENDING_POSTS, post_to, post_to_all, serve_metrics
from taper_rollout.verl.session import Session, first_cause

FIELD = "spec.rollout.metrics"
SECONDS = 30
# Ray's workers cannot import a test module: what they get of it travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def session(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    output = tmp_path_factory.mktemp("output")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with Session.open(load_job(sample / "job.yaml"), output, verbose=False) as session:
            yield session


def serve(run: str, endpoint: MetricsEndpoint | None = None) -> Any:
    """A replica's handle of its host."""
    wanted = endpoint or MetricsEndpoint(host="127.0.0.1", port=0, field=FIELD)
    return asyncio.run(serve_metrics(wanted, run=run, node=ray.get_runtime_context().get_node_id()))


@pytest.fixture
def run(session: Session) -> Iterator[str]:
    """The name of a run with a reporter."""
    name = f"run_{time.monotonic_ns()}"
    reporter = ray.remote(Reporter).options(name=name, num_cpus=0).remote()
    yield name
    ray.kill(reporter)


class Reporter:
    """A reporter that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def post(self, event: Any) -> None:
        self.events.append(event)

    def received(self) -> list[Any]:
        return self.events


def received(run: str) -> list[Any]:
    """The events of the reporter. That of a host may still be on its way."""
    deadline = time.monotonic() + SECONDS
    events: list[Any] = []
    while not events and time.monotonic() < deadline:
        events = ray.get(ray.get_actor(run).received.remote(), timeout=SECONDS)
    return events


def progress(replica: int, running: int) -> StageProgress:
    return StageProgress(replica=replica, step=1, running=running, finished=0, degree=1, num_ranks=2)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return answer.read().decode()


def pid_of(host: Any) -> int:
    return ray.get(host.__ray_call__.remote(lambda self: os.getpid()), timeout=SECONDS)


def test_replicas_of_a_node_share_a_host_and_the_trainer_finds_it(run: str) -> None:
    first, second = serve(run), serve(run)
    assert pid_of(first) == pid_of(second)
    (served,) = received(run)
    assert (type(served), served.node) == (MetricsServed, None)
    ray.get([post_to(first, progress(0, 3)), post_to(second, progress(1, 5))], timeout=SECONDS)
    text = read(served.url)
    assert 'taper_running_requests{replica="0"} 3.0' in text
    assert 'taper_running_requests{replica="1"} 5.0' in text
    post_to_all(run, Step(step=9, metrics={}))
    ray.get(post_to(first, progress(0, 2)), timeout=SECONDS)
    assert "taper_training_step 9.0" in read(served.url)
    ray.get(first.close.remote(), timeout=SECONDS)
    with pytest.raises(urllib.error.URLError, match="refused"):
        read(served.url)


def test_a_port_in_use_is_an_error_in_each_replica(run: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = MetricsEndpoint(host="127.0.0.1", port=port, field=FIELD)
        for _ in range(2):
            with pytest.raises(ValueError, match="is in use") as refused:
                serve(run, endpoint)
            assert first_cause(refused.value).startswith(f"ValueError: {FIELD}.port: {port} is in use on 127")


def test_a_host_that_cannot_be_made_in_time_is_an_error(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match=f"^{FIELD}: the endpoint on node .* did not start within 0 s"):
        serve(run)


def test_a_dead_host_is_ignored(run: str) -> None:
    host = serve(run)
    process = pid_of(host)
    os.kill(process, signal.SIGKILL)
    began = time.monotonic()
    posts = [post_to(host, progress(0, number)) for number in range(100)]
    assert time.monotonic() - began < 1.0
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(posts[-1], timeout=SECONDS)
    post_to_all(run, progress(0, 1))


def test_posts_to_a_host_that_hangs_are_bounded(run: str) -> None:
    host = serve(run)
    process = pid_of(host)
    os.kill(process, signal.SIGSTOP)
    try:
        began = time.monotonic()
        posts = [post_to(host, progress(0, number)) for number in range(MAX_PENDING_POSTS + 200)]
        assert time.monotonic() - began < 5.0
        assert posts[0] is not None
        assert posts[-1] is None
    finally:
        os.kill(process, signal.SIGCONT)
    ray.get(posts[0], timeout=SECONDS)
