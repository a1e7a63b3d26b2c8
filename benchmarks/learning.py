"""Does switching change what is learned? Trains the tiny sample with and without switches.

For each seed, `taper run` runs the same job three times: with switches at fixed token counts of every stage,
and without switches in each static layout, narrow and wide. Sampling noise is derived from the seed, so all
three would draw the same samples if their numbers were bitwise equal. The reward can be learned completely
within the run: two runs diverge at the first token that rounding decides, and while the reward rises, chance
contributes more to their difference than any cause. Compared are the rise of the reward (mean of the last
steps minus the first step's), the reward at the end, and VeRL's difference between the probabilities of
rollout and trainer.

A run with switches decodes in both layouts, so its probability differences are compared with those of both
static runs, over all seeds: the mean with their mean, the largest with the 99th percentile of the largest
difference of each of their steps. The comparison within a single seed is printed as well, also of one static
run with the other: with so few steps that percentile lies between the two largest values, and rounding
decides.

    python benchmarks/learning.py [--seeds 1 2 3] [--steps 30] [--output runs/learning]

Prints a table, writes `learning.json`, and exits with 1 if a criterion does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from taper_rollout.sample.make import JOB_FILE, make_sample

SWITCHED, NARROW, WIDE = MODES = ("switched", "narrow", "wide")
LAST_STEPS = 5
MIN_RISE = 0.2
MAX_APART = 0.05
MAX_MEAN_RATIO = 1.1
RUN_TIMEOUT_SECONDS = 3600
# Both directions, in mid-generation.
SCHEDULE = [{"tokens": 8, "degree": 2}, {"tokens": 16, "degree": 1}, {"tokens": 24, "degree": 2}]
MODE_SETTINGS: dict[str, dict[str, Any]] = {
    SWITCHED: {"spec.rollout.policy": {"name": "schedule", "schedule": SCHEDULE}},
    NARROW: {"spec.rollout.mode": "off"},
    WIDE: {"spec.rollout.mode": "off", "spec.rollout.degrees": [2]},
}
REWARD_FILE = Path(__file__).absolute().parent / "parts" / "learning_reward.py"
DIFFERENCE = "training/rollout_probs_diff"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one run. `reward_last` is the mean of the last steps, `difference_mean` of all.

    `difference_max` has the largest difference of each step, ascending.
    """

    seed: int
    mode: str
    steps: int
    switches: int
    reward_first: float
    reward_last: float
    difference_mean: float
    difference_max: tuple[float, ...]

    @property
    def rise(self) -> float:
        return self.reward_last - self.reward_first


def main() -> int:
    """Run all jobs and compare them; returns the exit code."""
    options = _options()
    outcomes = []
    for seed in options.seeds:
        for mode in MODES:
            output = options.output / f"seed-{seed}-{mode}"
            print(f"seed {seed}, mode {mode}: {output}", flush=True)
            outcomes.append(run(seed, mode, options.steps, output))
    failures = check(outcomes)
    Console().print(table(outcomes))
    print("largest probability differences within a seed:")
    for line in single_seeds(outcomes):
        print(f"  {line}")
    report = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes], "failures": failures}
    (options.output / "learning.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"does not hold: {failure}")
    return 1 if failures else 0


def run(seed: int, mode: str, steps: int, output: Path) -> Outcome:
    """Run one job from its first step. Raises `CalledProcessError` if it fails."""
    sample = output.parent / f"sample-{seed}"
    make_sample(sample, variant="tiny", seed=seed)
    settings = {
        "spec.training.steps": steps,
        "spec.training.seed": seed,
        "spec.training.batchPrompts": 8,
        "spec.algorithm.learningRate": 1e-3,
        "spec.reward.function": f"{REWARD_FILE}:even_share",
        "spec.rollout.responseTokens": 32,
        "spec.training.checkpoints.resume": "never",
        "spec.data.seed": seed,
        "spec.rollout.sampling.seed": seed,
    } | MODE_SETTINGS[mode]
    arguments = ["run", "-f", str(sample / JOB_FILE), "--output", str(output)]
    for field, value in settings.items():
        arguments += ["--set", f"{field}={json.dumps(value)}"]
    command = [sys.executable, "-m", "taper_rollout.cli", *arguments]
    subprocess.run(command, check=True, timeout=RUN_TIMEOUT_SECONDS)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return outcome_of([json.loads(line) for line in lines], seed=seed, mode=mode)


def outcome_of(lines: Sequence[dict[str, Any]], *, seed: int, mode: str) -> Outcome:
    """The outcome of a run from the lines of its `metrics.jsonl`."""
    largest = sorted(line["metrics"][f"{DIFFERENCE}_max"] for line in lines)
    return Outcome(
        seed=seed,
        mode=mode,
        steps=len(lines),
        switches=sum(line["switches"] for line in lines),
        reward_first=lines[0]["reward"],
        reward_last=statistics.fmean(line["reward"] for line in lines[-LAST_STEPS:]),
        difference_mean=statistics.fmean(line["metrics"][f"{DIFFERENCE}_mean"] for line in lines),
        difference_max=tuple(largest),
    )


def check(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each criterion that does not hold."""
    failures = [
        f"seed {outcome.seed}, {outcome.mode}: the reward rises by {outcome.rise:.3f}, less than {MIN_RISE}"
        for outcome in outcomes
        if outcome.rise < MIN_RISE
    ]
    by_run = {(outcome.seed, outcome.mode): outcome for outcome in outcomes}
    for seed in sorted({outcome.seed for outcome in outcomes}):
        failures += _compare(*(by_run[seed, mode] for mode in MODES))
    return failures + _compare_differences(outcomes)


def _compare(switched: Outcome, narrow: Outcome, wide: Outcome) -> list[str]:
    failures = []
    if switched.switches == 0:
        failures.append(f"seed {switched.seed}: no switch took place")
    for static in (narrow, wide):
        apart = abs(switched.reward_last - static.reward_last)
        if apart > MAX_APART:
            failures.append(
                f"seed {static.seed}, {static.mode}: rewards end {apart:.3f} apart, more than {MAX_APART}"
            )
    return failures


def _compare_differences(outcomes: Sequence[Outcome]) -> list[str]:
    switched = [outcome for outcome in outcomes if outcome.mode == SWITCHED]
    static = [outcome for outcome in outcomes if outcome.mode != SWITCHED]
    failures = []
    ratio = mean_difference(switched) / mean_difference(static)
    if ratio > MAX_MEAN_RATIO:
        failures.append(f"mean probability difference is {ratio:.2f} times the static ones")
    largest, p99 = max(outcome.difference_max[-1] for outcome in switched), p99_difference(static)
    if largest > p99:
        failures.append(
            f"largest probability difference {largest:.2e} is above the 99th percentile of the "
            f"static layouts', {p99:.2e}"
        )
    return failures


def mean_difference(outcomes: Sequence[Outcome]) -> float:
    """Over all steps of runs of like length."""
    return statistics.fmean(outcome.difference_mean for outcome in outcomes)


def p99_difference(outcomes: Sequence[Outcome]) -> float:
    """The 99th percentile of the largest differences of all steps."""
    return float(np.quantile([value for outcome in outcomes for value in outcome.difference_max], 0.99))


def single_seeds(outcomes: Sequence[Outcome]) -> list[str]:
    """For each run: its largest difference beside the 99th percentile of its seed's other static runs."""
    lines = []
    for outcome in outcomes:
        others = [
            other
            for other in outcomes
            if other.seed == outcome.seed and other.mode not in (SWITCHED, outcome.mode)
        ]
        p99, largest = p99_difference(others), outcome.difference_max[-1]
        relation = "above" if largest > p99 else "within"
        names = " and ".join(other.mode for other in others)
        lines.append(f"seed {outcome.seed}, {outcome.mode}: {largest:.3e}, {relation} {p99:.3e} of {names}")
    return lines


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row a run."""
    made = Table(title="Learning with and without switches", title_justify="left")
    for name in (
        "seed",
        "mode",
        "steps",
        "switches",
        "reward first",
        "last",
        "rise",
        "mean diff",
        "max diff",
    ):
        made.add_column(name, justify="left" if name == "mode" else "right")
    for outcome in outcomes:
        made.add_row(
            str(outcome.seed),
            outcome.mode,
            str(outcome.steps),
            str(outcome.switches),
            f"{outcome.reward_first:.3f}",
            f"{outcome.reward_last:.3f}",
            f"{outcome.rise:+.3f}",
            f"{outcome.difference_mean:.2e}",
            f"{outcome.difference_max[-1]:.2e}",
        )
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=Path("runs/learning"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
