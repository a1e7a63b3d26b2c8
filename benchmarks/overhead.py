"""What metrics and ledger cost: decode steps with and without telling what happens, live, alternately.

While told, every event goes to the run's reporter and to the node's metrics host, real actors of a real
Ray, and another process writes traces and ledger as `taper run` does and scrapes the metrics as often as
Prometheus would. While untold, events are dropped where they arise. The predictor is asked all the time,
and only advises. Telling is turned on and off every four seconds within stages of equal lengths, and each
told block is compared with the untold ones before and after it: neighbours on a shared host come and go
within a stage. The replica runs on as many ranks as the machine has cores: what is spent in another
process is missing in a rank, too, so the seconds that processes other than ranks had a core are counted.

What is looked for is less than half a percent, and two blocks that are alike differ by some percent: with
`--times 8` a batch is told of, heard of and scraped eight times as often, and the shares are divided by
eight. They are what telling takes if twice as much costs twice as much; `--times 1` takes it as it is.

    python benchmarks/overhead.py [--stages 8] [--model 210M] [--times 8]

Prints the share of a step that telling takes, by the clock and by the cores' time, each with its 95 %
interval, and writes JSON.
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
from taper_rollout.replica import stage
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.replica.decider import PolicyDecider
from taper_rollout.replica.events import StageProgress, StageRecord, as_json
from taper_rollout.replica.progress_throttle import MOST_SECONDS, ProgressThrottle
from taper_rollout.report.recorder import Recorder
from taper_rollout.sample.make import make_sample
from taper_rollout.verl.metrics.endpoint import metrics_endpoint
from taper_rollout.verl.metrics.host import post_to, serve_metrics
from taper_rollout.verl.session import SLICE_SECONDS, Session

SHAPES = {"71M": M71, "210M": M210}
# As the operator's PodMonitor asks for.
SCRAPE_SECONDS = 15.0
BLOCK_SECONDS, POLL_SECONDS, START_SECONDS = 4.0, 0.01, 60.0
# Until all prompts are read and the first questions asked.
SETTLED_SECONDS = 1.0
RESAMPLES = 10_000


class Listener:
    """What the run's driver and Prometheus do meanwhile: an actor, as both are processes of their own."""

    def __init__(self, run: str, directory: str, url: str, times: float) -> None:
        self._reporter, self._recorder, self._url = ray.get_actor(run), Recorder(Path(directory)), url
        self._times = times
        self._is_on = threading.Event()

    def turn(self, is_on: bool) -> None:
        """Listen, or let it be."""
        (self._is_on.set if is_on else self._is_on.clear)()

    def listen(self) -> None:
        """Never ends."""
        scraped_at = 0.0
        while True:
            self._is_on.wait()
            self._recorder.record(ray.get(self._reporter.drain.remote()))
            if time.monotonic() - scraped_at > SCRAPE_SECONDS / self._times:
                scraped_at = time.monotonic()
                with urllib.request.urlopen(self._url, timeout=1.0) as answer:
                    answer.read()
            time.sleep(SLICE_SECONDS / self._times)


class Teller:
    """Posts events as a replica's server does, or drops them; it keeps the records of stages in any case."""

    def __init__(self, reporter: Any, host: Any, listener: Any) -> None:
        self._reporter, self._host, self._listener = reporter, host, listener
        self.is_on = False
        self.records: list[Any] = []
        self.num_posts = 0

    async def turn(self, is_on: bool) -> None:
        """Tell from now on, or be silent."""
        self.is_on = is_on
        await self._listener.turn.remote(is_on)

    def __call__(self, event: Any) -> None:
        """Take one event."""
        if isinstance(event, StageRecord):
            self.records.append(event)
        if not self.is_on:
            return
        told = event if isinstance(event, dict) else as_json(event)
        self._reporter.post.remote(told)
        post_to(self._host, told)
        self.num_posts += 1


class Restless(ProgressThrottle):
    """Tells every so many seconds, whatever the batch does."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds, self._last_at = every_seconds, 0.0

    def is_due(self, progress: StageProgress, at: float) -> bool:
        """Whether so many seconds have passed."""
        if at - self._last_at < self._every_seconds:
            return False
        self._last_at = at
        return True


@contextmanager
def telling(output: Path, *, times: float) -> Iterator[Teller]:
    """A teller with its listener, on a Ray of their own; `times` as busy as in a run."""
    # Of a batch that does not change nothing would be told: it is told of as one that always does, a little.
    stage.ProgressThrottle = lambda: Restless(MOST_SECONDS / times)  # type: ignore[misc, assignment]
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with tempfile.TemporaryDirectory() as sample:
        job = make_sample(Path(sample), variant="tiny")
        with Session.open(job, output, verbose=False) as session:
            run, node = session.run_name, ray.get_runtime_context().get_node_id()
            endpoint = metrics_endpoint({"run": run}, node_address="127.0.0.1")
            host = asyncio.run(serve_metrics(endpoint, run=run, node=node))
            reporter = ray.get_actor(run)
            [served] = [one for one in ray.get(reporter.drain.remote()) if one["kind"] == "MetricsServed"]
            options = {"num_cpus": 0, "max_concurrency": 2}
            listener = ray.remote(Listener).options(**options).remote(run, str(output), served["url"], times)
            listener.listen.remote()
            yield Teller(reporter, host, listener)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far each group had come at one moment, and how long others than ranks had had a core by then."""

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
        """Now."""
        records = self._coordinator.records()
        return Mark(
            at=tuple(record.at for record in records),
            steps=tuple(record.steps_total for record in records),
            others_seconds=sum(sum(process.cpu_times()[:2]) for process in self._others),
        )

    def num_running(self) -> int:
        """Requests that are live."""
        return sum(record.running for record in self._coordinator.records())


async def blocks(meter: Meter, teller: Teller, requests: int, *, told_first: bool) -> FloatArray:
    """Turn telling on and off through a stage: rows of seconds a step, and others' seconds a second.

    Rows lie told and untold in turn, an untold one (or with `told_first` a told one) first; only those
    in which all `requests` decoded from beginning to end. Raises `TimeoutError` where they never all do.
    """
    async with asyncio.timeout(START_SECONDS):
        while meter.num_running() < requests:
            await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(SETTLED_SECONDS)
    rows = []
    is_on = told_first
    await teller.turn(is_on)
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
        await teller.turn(is_on)
        before = meter.mark()
    await teller.turn(False)
    return np.array(rows).reshape(-1, 2)


async def measure(model: str, teller: Teller, options: argparse.Namespace) -> FloatArray:
    """Shares `[blocks, 2]` that telling takes in each told block: by the clock, by the cores' time.

    A first stage is not counted.
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
    coordinator = Coordinator(settings, teller)
    await coordinator.start()
    try:
        decisions = PolicyDecider(settings, teller)
        decisions.use(coordinator.profile)
        replica = Replica(coordinator, teller.records)
        tokens = np.full((options.requests // SAMPLES, SAMPLES), options.tokens)
        await replica.run(decisions, tokens)
        meter = Meter(coordinator)
        shares = []
        for number in track(range(options.stages), description="stages"):
            flipping = asyncio.create_task(
                blocks(meter, teller, options.requests, told_first=number % 2 == 1)
            )
            await replica.run(decisions, tokens)
            shares.append(shares_of(await flipping, told_first=number % 2 == 1))
        return np.concatenate(shares)
    finally:
        await coordinator.close()


def shares_of(rows: FloatArray, *, told_first: bool) -> FloatArray:
    """Of each told block between two untold ones: how much more a step took, and cores' time as a share."""
    found = []
    for told in range(0 if told_first else 1, len(rows) - 1, 2):
        if told == 0:
            continue
        untold = (rows[told - 1] + rows[told + 1]) / 2
        more = rows[told] - untold
        found.append((more[0] / untold[0], more[1] / (os.cpu_count() or 1)))
    return np.array(found).reshape(-1, 2)


def report(shares: FloatArray) -> dict[str, float]:
    """Mean shares with their intervals by the bootstrap over blocks."""
    picks = np.random.default_rng(0).integers(len(shares), size=(RESAMPLES, len(shares)))
    low, high = np.quantile(shares[picks].mean(axis=1), (0.025, 0.975), axis=0)
    found = {}
    for column, name in enumerate(("clock", "cores")):
        found |= {
            f"{name}_share_mean": float(shares[:, column].mean()),
            f"{name}_share_low": float(low[column]),
            f"{name}_share_high": float(high[column]),
        }
    return found


def main() -> int:
    """Run, print, write; the exit code."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as told:
        make_model(Path(model), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        with telling(Path(told), times=options.times) as teller:
            shares = asyncio.run(measure(model, teller, options)) / options.times
    found = report(shares) | {"num_blocks": len(shares), "num_posts": teller.num_posts}
    for name, of in (("clock", "by the clock"), ("cores", "of the cores' time")):
        Console().print(
            f"telling takes {found[f'{name}_share_mean']:+.2%} "
            f"[{found[f'{name}_share_low']:+.2%}, {found[f'{name}_share_high']:+.2%}] {of}",
            highlight=False,
        )
    Console().print(
        f"{options.requests} requests, {len(shares)} told blocks of {BLOCK_SECONDS:.0f} s, "
        f"{teller.num_posts / len(shares) / BLOCK_SECONDS:.1f} posts a told second, "
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
        "--profile", type=Path, help="of this model on this machine; default: measured now, quickly, and kept"
    )
    parser.add_argument("--requests", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--tokens", type=int, default=160, help="of each response")
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument(
        "--times", type=float, default=1.0, help="tell so many times as often, and divide by it"
    )
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/overhead"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
