"""The same stage under every static layout, the baselines, the predictor and the oracle's plan, live.

One engine of two CPU ranks serves all policies in turn. In each repeat, every policy runs a stage of the same
prompts and the same lengths, beginning with another policy each time. New lengths are drawn for each repeat
and forced by each request's token limit, which no policy sees. Neighbours on a shared host change the speed
of the cores all the time: a second column of gains corrects for it (`parts.core_speed`). A stage of the
predictor comes first and is not counted: the predictor learns one stage's lengths from it, as in a job's
first step. The oracle's plan is the best one found with the true lengths and the measured profile, corrected
as the predictor's is; it runs live, too. Without `--profile` the replica measures a profile first, as
at the start of a run.

    python benchmarks/generation.py [--regimes lognormal uniform] [--requests 192] [--repeats 7] [--more]

Writes a JSON file for each regime and size, again after each repeat. At the end it plots all cases in the
output directory, so cases may be run one by one. Prints a table for each case that it ran, one of the means
over all cases in the directory, and one of the errors of simulated stages and predicted pauses.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from parts.core_speed import CoreSpeed
from parts.generation_errors import Errors, errors_table
from parts.generation_policies import ORACLE, PREDICTOR, THRESHOLDS, Planned, compared_policies
from parts.generation_report import Run, Stages, over_cases, plot, read_stages, table, wide_share
from parts.live_replica import DEGREES, FOOTPRINT, PROMPT_TOKENS, SAMPLES, Replica, replica_settings
from parts.random_qwen3 import M71, M210, W210, make_model
from rich.console import Console
from rich.progress import Progress

from taper_policy.decision.correction import CorrectedPrices
from taper_policy.decision.pricing import Prices
from taper_policy.profile.file import profile_as_json
from taper_policy.profile.profile import Profile
from taper_policy.simulation.length_distributions import REGIMES, lengths
from taper_policy.simulation.oracle import best_plan
from taper_policy.simulation.simulator import SimulatedRequest
from taper_policy.simulation.step_clock import StepClock
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.replica.decider import Decider

SHAPES = {"71M": M71, "210M": W210, "210M-deep": M210}
# Runs may be combined only if these settings are equal.
SAME = ("model", "dtype", "max_tokens", "thresholds", "without", "seed", "probe_bias")


def oracle_arm(tokens: np.ndarray[Any, Any], prices: Prices) -> Planned:
    """The best plan for a stage, by its true lengths."""
    requests = [
        SimulatedRequest(
            rid=f"{prompt:03}-{sample}",
            prompt=str(prompt),
            prompt_tokens=PROMPT_TOKENS,
            response_tokens=int(tokens[prompt, sample]),
        )
        for prompt, sample in np.ndindex(*tokens.shape)
    ]
    clock = StepClock(
        prices,
        footprint=FOOTPRINT,
        max_batch=len(requests),
        max_context=PROMPT_TOKENS + int(tokens.max()) + 1,
    )
    plan, _ = best_plan(requests, clock, degrees=DEGREES)
    return Planned(plan)


async def compare(
    replica: Replica,
    deciders: dict[str, Decider],
    profile: Profile,
    cores: CoreSpeed,
    options: argparse.Namespace,
) -> list[Path]:
    """Run all stages of all regimes and sizes; returns the files with the results."""
    cases = [(regime, size) for regime in options.regimes for size in options.requests]
    names = [*deciders, ORACLE]
    files = []
    with Progress(transient=True) as progress:
        task = progress.add_task("stages", total=len(cases) * (1 + options.repeats * len(names)))
        for regime, size in cases:
            files.append(case_file(options, regime, size))
            runs = _earlier_runs(files[-1], options)
            first = 1 + max((run.repeat for run in runs), default=0)
            for repeat in range(first - 1, first + options.repeats):
                tokens = lengths(
                    regime,
                    num_prompts=size // SAMPLES,
                    num_samples=SAMPLES,
                    max_tokens=options.max_tokens,
                    seed=options.seed + repeat,
                )
                counts = repeat >= first
                for name in _rotated(names, repeat) if counts else [PREDICTOR]:
                    progress.update(task, description=f"{regime}, {size} requests: {name}")
                    prices = CorrectedPrices(profile, replica.coordinator.correction)
                    decider = oracle_arm(tokens, prices) if name == ORACLE else deciders[name]
                    record = dataclasses.asdict(await replica.run(decider, tokens))
                    progress.advance(task)
                    if counts:
                        runs.append(_run(regime, size, repeat, name, record, cores))
                if counts:
                    _keep(files[-1], Stages(runs, probe_bias=options.probe_bias), profile, options)
    return files


def case_file(options: argparse.Namespace, regime: str, size: int) -> Path:
    """The file with the results of a case."""
    file: Path = options.output / f"{regime}-{size}.json"
    return file


def _earlier_runs(file: Path, options: argparse.Namespace) -> list[Run]:
    """The runs to add to, with `--more`. Raises `ValueError` where they are of other settings."""
    if not options.more or not file.exists():
        return []
    settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    for name in SAME:
        if settings[name] != str(getattr(options, name)):
            raise ValueError(f"{file}: made with {name} {settings[name]}, not {getattr(options, name)}")
    return list(read_stages(file).runs)


def _keep(file: Path, stages: Stages, profile: Profile, options: argparse.Namespace) -> None:
    content = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "settings": {name: str(value) for name, value in vars(options).items()},
        "profile": profile_as_json(profile),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    figures = Errors.of([stages]).as_json() | stages.as_json()
    file.write_text(json.dumps(content | figures, indent=1) + "\n", encoding="utf-8")


def _rotated(names: Sequence[str], by: int) -> Iterator[str]:
    return (names[(index + by) % len(names)] for index in range(len(names)))


def _run(regime: str, size: int, repeat: int, policy: str, record: dict[str, Any], cores: CoreSpeed) -> Run:
    return Run(
        regime=regime,
        requests=size,
        repeat=repeat,
        policy=policy,
        seconds=record["ended_at"] - record["started_at"],
        slowness=cores.slowness(record["started_at"], record["ended_at"]),
        wide_share=wide_share(record, FOOTPRINT),
        switches=record["switches"],
        review=record.get("review"),
    )


async def measure(model: str, options: argparse.Namespace) -> list[Path]:
    """Start the replica, measure or read its profile, run everything; returns the files written."""
    settings = replica_settings(
        model,
        dtype=options.dtype,
        requests=max(options.requests),
        max_tokens=options.max_tokens,
        profile=options.profile,
        profiles=options.output / "profiles",
    )
    events: list[Any] = []
    coordinator = Coordinator(settings, events.append)
    await coordinator.start()
    try:
        profile = coordinator.profile
        if profile is None:
            raise RuntimeError("no profile could be measured")
        deciders = compared_policies(settings, profile, events.append, options.thresholds)
        if options.without:
            deciders = {name: decider for name, decider in deciders.items() if name not in options.without}
        with CoreSpeed() as cores:
            return await compare(Replica(coordinator, events), deciders, profile, cores, options)
    finally:
        await coordinator.close()


def main() -> int:
    """Run, print, write; returns the exit code."""
    options = _options()
    try:
        for regime, size in itertools.product(options.regimes, options.requests):
            _earlier_runs(case_file(options, regime, size), options)
    except ValueError as error:
        print(f"generation: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        files = asyncio.run(measure(directory, options))
    console = Console()
    for file in files:
        console.print(table(read_stages(file)))
    found = [read_stages(file) for file in sorted(options.output.glob("*-*.json"))]
    if len(found) > 1:
        console.print(over_cases(found))
    console.print(errors_table(found))
    plot(found, options.output / "generation.png")
    console.print(f"written to {options.output}", highlight=False)
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
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--requests", type=int, nargs="+", default=[64, 192], help="multiples of 8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--more", action="store_true", help="add the repeats to those that the output directory holds"
    )
    parser.add_argument("--thresholds", type=int, nargs="*", default=list(THRESHOLDS))
    parser.add_argument(
        "--without",
        nargs="+",
        metavar="POLICY",
        help="policies to leave out, so that others get more repeats",
    )
    parser.add_argument("--max-tokens", type=int, default=128, help="cap of a response")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--probe-bias",
        type=float,
        default=0.0,
        help="share by which TP2 slows the core-speed probe: see probe_bias.py",
    )
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/generation"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
