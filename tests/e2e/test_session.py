"""A run on Ray without VeRL: its events and errors, and that nothing outlives it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from taper_api import RLHFJob, load_job
from taper_rollout.events import Event, Failure, StageRecord, Step
from taper_rollout.job.training_failed import TrainingFailed
from taper_rollout.verl import session as session_module
from taper_rollout.verl.replica_name import PREFIX
from taper_rollout.verl.session import Session

Train = Callable[..., list[Any]]
OnEvents = Callable[[list[Any]], None]
STAGE = StageRecord(
    replica=0,
    step=1,
    num_ranks=2,
    started_at=0.0,
    ended_at=1.0,
    idle_rank_seconds=0.0,
    requests=(),
    batch=(),
    switches=(),
)
REWARD_FAILED = "the reward x.py:f failed: KeyError: 'a'"
# Ray's workers cannot import a test module: what they get of it travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Posting:
    """A fake of VeRL's trainer that posts two steps."""

    def run(self, config: dict[str, Any]) -> None:
        reporter = ray.get_actor(config["run"])
        for step in (1, 2):
            ray.get(reporter.post.remote(Step(step=step, metrics={})))


class Unborn:
    """Cannot be started."""

    def __init__(self) -> None:
        raise OSError("no memory for an actor")

    def run(self, config: dict[str, Any]) -> None:
        """Not reached."""


class Raising:
    """Fails two calls deep, like an error in a worker."""

    def run(self, config: dict[str, Any]) -> None:
        @ray.remote(num_cpus=0)
        def worker() -> None:
            raise KeyError("the real cause")

        ray.get(worker.remote())


class Reporting:
    """A reward reports its failure while VeRL continues forever."""

    def run(self, config: dict[str, Any]) -> None:
        import subprocess
        import time

        subprocess.Popen(["sleep", "600"])  # a child that Ray does not know
        reporter = ray.get_actor(config["run"])
        ray.get(reporter.post.remote(Failure(message="the reward x.py:f failed: KeyError: 'a'")))
        time.sleep(600)


class Closing:
    """A fake replica that posts its stage when it is closed."""

    def __init__(self, run: str) -> None:
        self._reporter = ray.get_actor(run)

    def close(self) -> None:
        ray.get(self._reporter.post.remote(STAGE))


class Starting:
    """Starts a replica, posts a step, and trains forever."""

    def run(self, config: dict[str, Any]) -> None:
        import time

        replica = ray.remote(Closing).options(name=f"{PREFIX}0", num_cpus=0).remote(config["run"])
        ray.get(replica.__ray_ready__.remote())
        ray.get(ray.get_actor(config["run"]).post.remote(Step(step=1, metrics={})))
        time.sleep(600)


@pytest.fixture
def job(sample: Path) -> RLHFJob:
    return load_job(sample / "job.yaml")


@pytest.fixture
def train(job: RLHFJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Runs a fake trainer. Afterwards nothing that was started here may still run."""
    before = set(psutil.Process().children(recursive=True))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(runner: type, on_events: OnEvents | None = None) -> list[Any]:
        monkeypatch.setattr(session_module, "Runner", runner)
        received: list[Any] = []
        with Session.open(job, tmp_path, verbose=False) as session:
            session.train({"run": session.run_name}, on_events or received.extend)  # type: ignore[arg-type]
        return received

    yield run
    left = [p for p in set(psutil.Process().children(recursive=True)) - before if p.status() != "zombie"]
    assert left == []
    assert not ray.is_initialized()
    assert list(Path("/tmp").glob(f"taper-ray-{os.getpid()}-*")) == []


def test_steps_arrive_and_logs_are_kept(train: Train, tmp_path: Path) -> None:
    assert [event.step for event in train(Posting)] == [1, 2]
    assert list((tmp_path / "logs").glob("*"))


@pytest.mark.parametrize(
    ("runner", "cause"),
    [(Raising, "KeyError: 'the real cause'"), (Unborn, "OSError: no memory for an actor")],
)
def test_the_innermost_cause_is_reported(train: Train, runner: type, cause: str) -> None:
    with pytest.raises(TrainingFailed, match=f"^{cause}$"):
        train(runner)


def test_a_reported_failure_ends_the_run_and_all_its_children(train: Train) -> None:
    with pytest.raises(TrainingFailed, match=f"^{REWARD_FAILED}$"):
        train(Reporting)


def test_events_of_replicas_closed_by_an_interrupt_arrive(train: Train) -> None:
    received: list[type] = []

    def listen(events: list[Event]) -> None:
        received.extend(type(event) for event in events)
        if received == [Step]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Starting, listen)
    assert received == [Step, StageRecord]


def test_an_interrupt_between_two_polls_cleans_up(train: Train) -> None:
    def interrupt(events: list[Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Reporting, interrupt)
