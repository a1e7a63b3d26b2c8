"""Measures a finer profile for `generation.py` than a run measures: about a quarter of an hour.

The replica has two CPU ranks and room for a stage's contexts. The grid is `taper profile`'s fine grid with
two thirds of the batches, two visits a cell and one tour of switches under each load.

    python benchmarks/fine_profile.py build/fine.json [--model 210M] [--requests 192]
    python benchmarks/generation.py --profile build/fine.json

Writes the profile and prints its errors on the measurements that were held out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from generation import SHAPES
from parts.live_replica import replica_settings
from parts.random_qwen3 import make_model
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from taper_policy.profile.file import write_profile
from taper_policy.profile.profile import Profile
from taper_rollout.profiling.grid import FULL
from taper_rollout.profiling.profiler import EngineSwitch, measure_profile
from taper_rollout.profiling.replica_settings import engine_settings
from taper_rollout.sglang.engine import ElasticEngine

GRID = dataclasses.replace(
    FULL, batches=(1, 2, 3, 4, 8, 16, 32, 64, 96, 192), context_ratio=10.0, max_visits=2, tours=1
)


async def measured(model: str, options: argparse.Namespace) -> Profile:
    """Start an engine, measure its profile, stop it. Raises as `measure_profile`."""
    settings = replica_settings(
        model,
        dtype=options.dtype,
        requests=options.requests,
        max_tokens=options.max_tokens,
        profile=None,
        profiles=options.file.parent,
    )
    engine = ElasticEngine(engine_settings(settings))
    await engine.start()
    try:
        with Progress(transient=True) as progress:
            task = progress.add_task("profile", total=1.0)
            return await measure_profile(
                engine,
                settings,
                EngineSwitch(engine, settings.rollout.switch.timeout_seconds),
                grid=GRID,
                on_progress=lambda share, doing: progress.update(task, completed=share, description=doing),
            )
    finally:
        await engine.close()


def errors(profile: Profile) -> Table:
    """Errors of the profile's predictions for the held-out measurements."""
    table = Table(title="error on held-out measurements", title_justify="left")
    for name in ("measurement", "error"):
        table.add_column(name)
    table.add_row("a cell's mean step, mean", f"{profile.held_out_cell_error:.1%}")
    table.add_row("a single step, mean", f"{profile.held_out_error:.1%}")
    for (source, target), terms in sorted(profile.switch.items()):
        table.add_row(f"pause TP{source} to TP{target}, p90", f"{terms.relative_error_p90:.1%}")
    return table


def main() -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="profile to write")
    parser.add_argument("--model", choices=list(SHAPES), default="210M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--requests", type=int, default=192, help="largest number of requests in a stage")
    parser.add_argument("--max-tokens", type=int, default=128, help="cap of a response")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        profile = asyncio.run(measured(directory, options))
    write_profile(profile, options.file)
    console = Console()
    console.print(errors(profile))
    console.print(f"written to {options.file}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
