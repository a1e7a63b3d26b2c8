"""What metrics and ledger cost: decode steps with and without event reporting, on a live replica.

While reporting is on, every event goes to the run's reporter and to the node's metrics host, real actors of
a real Ray. Another process writes traces and ledger as `taper run` does and scrapes the metrics as often as
Prometheus would. While it is off, events are dropped where they arise. The predictor decides all the time,
and only advises. Reporting is turned on and off every four seconds within stages of equal lengths. Each
reported block is compared with the unreported blocks before and after it, because the load from neighbours
on a shared host changes within a stage. The replica runs on as many ranks as the machine has cores: core
time spent in another process is missing in a rank, so the seconds that other processes had a core are
counted, too.

The cost is expected to be less than half a percent, and two equal blocks differ by some percent. With
`--times 8`, progress events are sent, drained and scraped eight times as often, and the shares are divided
by eight: the cost of reporting, if it grows in proportion. `--times 1` measures it directly.

    python benchmarks/overhead.py [--stages 8] [--model 210M] [--times 8]

Prints the share of a step that reporting takes, as wall time and as core time, each with its 95 % interval,
and writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from parts.live_replica import SAMPLES, Replica, replica_settings
from parts.random_qwen3 import M71, M210, make_model
from rich.console import Console
from rich.progress import track

from taper_policy.arrays import FloatArray
from taper_rollout.events import Event, MetricsServed, StageProgress, StageRecord
from taper_rollout.replica import stage
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.replica.decider import Decider
from taper_rollout.replica.progress_throttle import MOST_SECONDS, ProgressThrottle
from taper_rollout.report.recorder import Recorder
from taper_rollout.sample.make import make_sample
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint
from taper_rollout.verl.metrics.host import post_to, serve_metrics
from taper_rollout.verl.session import SLICE_SECONDS, Session

SHAPES = {"71M": M71, "210M": M210}
# As the operator's PodMonitor asks for.
SCRAPE_SECONDS = 15.0
BLOCK_SECONDS, POLL_SECONDS, START_SECONDS = 4.0, 0.01, 60.0
# Until all prompts are prefilled and the first decisions made.
SETTLED_SECONDS = 1.0
RESAMPLES = 10_000


class Consumer:
    """Does what the run's driver and Prometheus do: an actor, because both are separate processes."""

    def __init__(self, run: str, directory: str, url: str, times: float) -> None:
        self._reporter, self._recorder, self._url = ray.get_actor(run), Recorder(Path(directory)), url
        self._times = times
        self._is_on = threading.Event()

    def turn(self, is_on: bool) -> None:
        """Start or stop draining events and scraping."""
        (self._is_on.set if is_on else self._is_on.clear)()

    def consume(self) -> None:
        """Drain events and scrape metrics while turned on; never returns."""
        scraped_at = 0.0
        while True:
            self._is_on.wait()
            self._recorder.record(ray.get(self._reporter.drain.remote()))
            if time.monotonic() - scraped_at > SCRAPE_SECONDS / self._times:
                scraped_at = time.monotonic()
                with urllib.request.urlopen(self._url, timeout=1.0) as answer:
                    answer.read()
            time.sleep(SLICE_SECONDS / self._times)


class EventReporter:
    """Posts events as a replica's server does, or drops them; always keeps the stage records."""

    def __init__(self, reporter: Any, host: Any, consumer: Any) -> None:
        self._reporter, self._host, self._consumer = reporter, host, consumer
        self.is_on = False
        self.records: list[Any] = []
        self.num_posts = 0

    async def turn(self, is_on: bool) -> None:
        """Turn reporting on or off."""
        self.is_on = is_on
        await self._consumer.turn.remote(is_on)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, StageRecord):
            self.records.append(event)
        if not self.is_on:
            return
        self._reporter.post.remote(event)
        post_to(self._host, event)
        self.num_posts += 1


class FixedInterval(ProgressThrottle):
    """Lets a progress event pass every so many seconds, whether or not the batch changed."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds, self._last_at = every_seconds, 0.0

    def is_due(self, progress: StageProgress, at: float) -> bool:
        """Whether the interval has passed since the last event."""
        if at - self._last_at < self._every_seconds:
            return False
        self._last_at = at
        return True


@contextmanager
def event_reporting(output: Path, *, times: float) -> Iterator[EventReporter]:
    """A reporter and its consumer on their own Ray, with `times` as many events as in a run."""
    # A batch that does not change sends no progress events: here it sends them as one that always changes.
    setattr(stage, "ProgressThrottle", lambda: FixedInterval(MOST_SECONDS / times))  # noqa: B010
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with tempfile.TemporaryDirectory() as sample:
        job = make_sample(Path(sample), variant="tiny")
        with Session.open(job, output, verbose=False) as session:
            run, node = session.run_name, ray.get_runtime_context().get_node_id()
            endpoint = MetricsEndpoint(host="127.0.0.1", port=0, field="overhead")
            host = asyncio.run(serve_metrics(endpoint, run=run, node=node))
            reporter = ray.get_actor(run)
            [served] = [one for one in ray.get(reporter.drain.remote()) if isinstance(one, MetricsServed)]
            options = {"num_cpus": 0, "max_concurrency": 2}
            consumer = ray.remote(Consumer).options(**options).remote(run, str(output), served.url, times)
            consumer.consume.remote()
            yield EventReporter(reporter, host, consumer)


@dataclass(frozen=True, slots=True)
class Mark:
    """Each group's time and decode steps at one moment, and the core seconds of other processes so far."""

    at: tuple[float, ...]
    steps: tuple[int, ...]
    others_seconds: float


class Meter:
    """Takes marks of a running replica."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        me = psutil.Process()
        self._others = [
            one for one in (me, *me.children(recursive=True)) if not one.name().startswith("sglang::")
        ]

    def mark(self) -> Mark:
        """The current mark."""
        records = self._coordinator.records()
        return Mark(
            at=tuple(record.at for record in records),
            steps=tuple(record.steps_total for record in records),
            others_seconds=sum(sum(process.cpu_times()[:2]) for process in self._others),
        )

    def num_running(self) -> int:
        """Requests that are live."""
        return sum(record.running for record in self._coordinator.records())


async def blocks(meter: Meter, reporter: EventReporter, requests: int, *, reported_first: bool) -> FloatArray:
    """Turn reporting on and off through a stage: rows of seconds a step, and others' core seconds a second.

    Rows `[blocks, 2]` alternate, an unreported block first (with `reported_first` a reported one). Only
    blocks in which all `requests` decoded from beginning to end count. Raises `TimeoutError` if they do
    not all decode within `START_SECONDS`.
    """
    async with asyncio.timeout(START_SECONDS):
        while meter.num_running() < requests:
            await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(SETTLED_SECONDS)
    rows = []
    is_on = reported_first
    await reporter.turn(is_on)
    before = meter.mark()
    while True:
        await asyncio.sleep(BLOCK_SECONDS)
        now = meter.mark()
        if meter.num_running() < requests:
            break
        per_step = [
            (at - at_before) / (steps - steps_before)
            for at, at_before, steps, steps_before in zip(
                now.at, before.at, now.steps, before.steps, strict=True
            )
        ]
        seconds = float(np.mean(np.subtract(now.at, before.at)))
        rows.append((np.mean(per_step), (now.others_seconds - before.others_seconds) / seconds))
        is_on = not is_on
        await reporter.turn(is_on)
        before = meter.mark()
    await reporter.turn(False)
    return np.array(rows).reshape(-1, 2)


async def measure(model: str, reporter: EventReporter, options: argparse.Namespace) -> FloatArray:
    """Shares `[blocks, 2]` that reporting takes in each reported block: of wall time, of core time.

    The first stage warms up and is not counted.
    """
    settings = replica_settings(
        model,
        dtype=options.dtype,
        requests=options.requests,
        max_tokens=options.tokens,
        profile=options.profile,
        profiles=options.output / "profiles",
    )
    settings = replace(settings, rollout=settings.rollout.model_copy(update={"mode": "advise"}))
    coordinator = Coordinator(settings, reporter)
    await coordinator.start()
    try:
        decisions = Decider(settings, reporter)
        decisions.use(coordinator.profile)
        replica = Replica(coordinator, reporter.records)
        tokens = np.full((options.requests // SAMPLES, SAMPLES), options.tokens)
        await replica.run(decisions, tokens)
        meter = Meter(coordinator)
        shares = []
        for number in track(range(options.stages), description="stages"):
            flipping = asyncio.create_task(
                blocks(meter, reporter, options.requests, reported_first=number % 2 == 1)
            )
            await replica.run(decisions, tokens)
            shares.append(shares_of(await flipping, reported_first=number % 2 == 1))
        return np.concatenate(shares)
    finally:
        await coordinator.close()


def shares_of(rows: FloatArray, *, reported_first: bool) -> FloatArray:
    """For each reported block between two unreported ones: the added share of a step, and of core time."""
    found = []
    for index in range(0 if reported_first else 1, len(rows) - 1, 2):
        if index == 0:
            continue
        unreported = (rows[index - 1] + rows[index + 1]) / 2
        more = rows[index] - unreported
        found.append((more[0] / unreported[0], more[1] / (os.cpu_count() or 1)))
    return np.array(found).reshape(-1, 2)


def report(shares: FloatArray) -> dict[str, float]:
    """Mean shares with their intervals by the bootstrap over blocks."""
    picks = np.random.default_rng(0).integers(len(shares), size=(RESAMPLES, len(shares)))
    low, high = np.quantile(shares[picks].mean(axis=1), (0.025, 0.975), axis=0)
    found: dict[str, float] = {}
    for column, name in enumerate(("clock", "cores")):
        found |= {
            f"{name}_share_mean": float(shares[:, column].mean()),
            f"{name}_share_low": float(low[column]),
            f"{name}_share_high": float(high[column]),
        }
    return found


def main() -> int:
    """Run, print, write; returns the exit code."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as run:
        make_model(Path(model), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        with event_reporting(Path(run), times=options.times) as reporter:
            shares = asyncio.run(measure(model, reporter, options)) / options.times
    found = report(shares) | {"num_blocks": len(shares), "num_posts": reporter.num_posts}
    for name, of in (("clock", "of wall time"), ("cores", "of core time")):
        Console().print(
            f"reporting takes {found[f'{name}_share_mean']:+.2%} "
            f"[{found[f'{name}_share_low']:+.2%}, {found[f'{name}_share_high']:+.2%}] {of}",
            highlight=False,
        )
    Console().print(
        f"{options.requests} requests, {len(shares)} reported blocks of {BLOCK_SECONDS:.0f} s, "
        f"{reporter.num_posts / len(shares) / BLOCK_SECONDS:.1f} events a reported second, "
        f"{options.times:g} times as many as in a run",
        highlight=False,
    )
    content = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "settings": {name: str(value) for name, value in vars(options).items()},
        "shares": shares.tolist(),
    }
    (options.output / "overhead.json").write_text(
        json.dumps(content | found, indent=1) + "\n", encoding="utf-8"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="210M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument(
        "--profile",
        type=Path,
        help="profile of this model on this machine; default: measure one quickly and keep it",
    )
    parser.add_argument("--requests", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--tokens", type=int, default=160, help="length of each response")
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument(
        "--times", type=float, default=1.0, help="report so many times as often, and divide the shares by it"
    )
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/overhead"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
