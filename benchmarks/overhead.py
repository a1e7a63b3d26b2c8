"""What metrics and ledger cost: the same stage with and without telling what happens, live, paired.

Told stages post every event to the run's reporter and to the node's metrics host, real actors of a real
Ray, and another process writes traces and ledger as `taper run` does and scrapes the metrics
every second. Untold ones drop the events where they arise. Both ask the predictor, and only
advise. Stages come in pairs, the told one first in every other pair, and run on as many ranks as
the machine has cores: what is spent in another process is missing in a rank, too.

    python benchmarks/overhead.py [--pairs 20] [--model 210M]

Prints the share of a stage that telling takes with its 95 % interval, and writes JSON.
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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
from live_replica import SAMPLES, Replica, replica_settings
from random_qwen3 import M71, M210, make_model
from rich.console import Console
from rich.progress import track

from taper_rollout.coordinator import Coordinator
from taper_rollout.decisions import Decisions
from taper_rollout.events import StageRecord, as_json
from taper_rollout.report.recorder import Recorder
from taper_rollout.sample.make import make_sample
from taper_rollout.verl.metrics_endpoint import metrics_endpoint
from taper_rollout.verl.metrics_host import post_to, serve_metrics
from taper_rollout.verl.session import Session

SHAPES = {"71M": M71, "210M": M210}
LISTEN_SECONDS, SCRAPE_SECONDS = 0.25, 1.0
RESAMPLES = 10_000

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Listener:
    """What the run's driver and Prometheus do meanwhile: an actor, as both are processes of their own."""

    def __init__(self, run: str, directory: str, url: str) -> None:
        self._reporter, self._recorder, self._url = ray.get_actor(run), Recorder(Path(directory)), url
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
            if time.monotonic() - scraped_at > SCRAPE_SECONDS:
                scraped_at = time.monotonic()
                with urllib.request.urlopen(self._url, timeout=SCRAPE_SECONDS) as answer:
                    answer.read()
            time.sleep(LISTEN_SECONDS)


class Teller:
    """Posts events as a replica's server does, or drops them; it keeps the records of stages in any case."""

    def __init__(self, reporter: Any, host: Any) -> None:
        self._reporter, self._host = reporter, host
        self.is_on = True
        self.records: list[Any] = []
        self.num_posts = 0

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


@contextmanager
def telling(output: Path) -> Iterator[tuple[Teller, Any]]:
    """A teller and its listener on a Ray of their own."""
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
            listener = ray.remote(Listener).options(**options).remote(run, str(output), served["url"])
            listener.listen.remote()
            yield Teller(reporter, host), listener


async def compare(
    coordinator: Coordinator, decisions: Decisions, teller: Teller, listener: Any, options: argparse.Namespace
) -> Floats:
    """Seconds `[pairs, 2]` of each pair of stages: told, untold. A first pair is not counted."""
    replica = Replica(coordinator, teller.records)
    tokens = np.full((options.requests // SAMPLES, SAMPLES), options.tokens)
    seconds = np.zeros((options.pairs + 1, 2))
    for pair in track(range(options.pairs + 1), description="pairs of stages"):
        for is_on in (True, False) if pair % 2 else (False, True):
            teller.is_on = is_on
            ray.get(listener.turn.remote(is_on))
            record = await replica.run(decisions, tokens)
            seconds[pair, 0 if is_on else 1] = record.generation_seconds
    return seconds[1:]


async def measure(model: str, teller: Teller, listener: Any, options: argparse.Namespace) -> Floats:
    """Start the replica, run all pairs."""
    settings = replica_settings(
        model,
        dtype=options.dtype,
        requests=options.requests,
        max_tokens=options.tokens,
        profile=options.profile,
        profiles=options.output / "profiles",
    )
    settings = replace(settings, mode="advise")
    coordinator = Coordinator(settings, teller)
    await coordinator.start()
    try:
        decisions = Decisions(settings, teller)
        decisions.use(coordinator.profile)
        return await compare(coordinator, decisions, teller, listener, options)
    finally:
        await coordinator.close()


def report(seconds: Floats, teller: Teller) -> dict[str, float]:
    """The mean share that telling takes of a stage, with its interval by the bootstrap over pairs."""
    shares = seconds[:, 0] / seconds[:, 1] - 1.0
    picks = np.random.default_rng(0).integers(len(shares), size=(RESAMPLES, len(shares)))
    low, high = np.quantile(shares[picks].mean(axis=1), (0.025, 0.975))
    return {
        "share_mean": float(shares.mean()),
        "share_low": float(low),
        "share_high": float(high),
        "share_median": float(np.median(shares)),
        "stage_seconds": float(np.median(seconds)),
        "posts_per_told_second": teller.num_posts / float(seconds[:, 0].sum()),
    }


def main() -> int:
    """Run, print, write; the exit code."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as told:
        make_model(Path(model), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        with telling(Path(told)) as (teller, listener):
            seconds = asyncio.run(measure(model, teller, listener, options))
    found = report(seconds, teller)
    Console().print(
        f"telling takes {found['share_mean']:+.2%} [{found['share_low']:+.2%}, {found['share_high']:+.2%}] "
        f"of a stage of {found['stage_seconds']:.1f} s, {options.requests} requests, {len(seconds)} pairs; "
        f"{found['posts_per_told_second']:.1f} posts a second",
        highlight=False,
    )
    content = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "settings": {name: str(value) for name, value in vars(options).items()},
        "seconds": seconds.tolist(),
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
    parser.add_argument("--tokens", type=int, default=32, help="of each response")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/overhead"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
