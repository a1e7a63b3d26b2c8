"""How long a decision takes, on one core: `python benchmarks/deciding.py [--live 64 256 1024]`.

A replica of eight ranks with four layouts and `--live` live requests, eight to a prompt, priced by the
estimated profile of an H100. `decide` and the forecast before it are timed separately.

Prints a table and writes JSON. The limit: 5 ms for 1,024 live requests.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from taper_policy.decision.decide import DecisionSettings, decide
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.profile.estimated import h100_8b

MAX_TOKENS, SAMPLES, FOOTPRINT = 24_576, 8, 8
RULES = DecisionSettings(degrees=(1, 2, 4, 8))


def live_requests(count: int) -> tuple[LiveRequest, ...]:
    """The requests of a stage in its narrowest layout, each with some tokens decoded."""
    drawn = np.random.default_rng(1).integers(1, 4000, count).tolist()
    return tuple(
        LiveRequest(
            rid=f"{index:06}",
            prompt=f"{index // SAMPLES:06}",
            group=index % FOOTPRINT,
            prompt_tokens=200,
            decoded_tokens=decoded,
        )
        for index, decoded in enumerate(drawn)
    )


def seconds_of(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def measured(count: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a decision on `count` live requests."""
    live, history, profile = live_requests(count), LengthHistory(), h100_8b()
    snapshot = Snapshot(at_seconds=0.0, footprint=FOOTPRINT, degree=1, running=()).with_live(live)
    known = forecast(live, history, max_tokens=MAX_TOKENS)
    deciding = seconds_of(lambda: decide(snapshot, profile, known, RULES, 0.1), repeats)
    forecasting = seconds_of(lambda: forecast(live, history, max_tokens=MAX_TOKENS), repeats)
    return {
        "live_requests": count,
        "decide_ms_p50": 1e3 * float(np.median(deciding)),
        "decide_ms_p95": 1e3 * float(np.quantile(deciding, 0.95)),
        "forecast_ms_p50": 1e3 * float(np.median(forecasting)),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--live", type=int, nargs="+", default=[64, 256, 1024], help="numbers of live requests"
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/deciding.json"))
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [measured(count, options.repeats) for count in options.live]
    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
