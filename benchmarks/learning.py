"""Does switching change what is learned? Trains the tiny sample with and without switches.

For each seed the same job is run by `taper run` in mode `enforce`, with switches at fixed
token counts of every stage, and in mode `off`. Noise is derived from the seed, so both
runs would draw the same samples if their numbers were the same to the last bit. The
reward is one that can be learned to the end meanwhile: two runs part at the first token that
rounding decides, and on the way up their rewards differ by chance more than by cause. Held
against each other are the rise of the reward (mean of the last steps minus the first
step's), where the rewards end, and VeRL's difference between the probabilities of rollout
and trainer.

    python benchmarks/learning.py [--seeds 1 2 3] [--steps 30] [--output runs/learning]

Prints a table, writes `learning.json`, and exits with 1 if something does not hold.
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

from rich.console import Console
from rich.table import Table

from taper_rollout.report.stages import percentile
from taper_rollout.sample.make import JOB_FILE, make_sample

MODES = ("enforce", "off")
LAST_STEPS = 5
MIN_RISE = 0.2
MAX_APART = 0.05
MAX_MEAN_RATIO = 1.1
RUN_TIMEOUT_SECONDS = 3600
# Both directions, in mid-generation.
SCHEDULE = [{"tokens": 8, "degree": 2}, {"tokens": 16, "degree": 1}, {"tokens": 24, "degree": 2}]
REWARD_FILE = Path(__file__).with_name("learning_reward.py").absolute()
DIFFERENCE = "training/rollout_probs_diff"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run came to. `reward_last` is the mean of the last steps, differences are over all steps."""

    seed: int
    mode: str
    steps: int
    switches: int
    reward_first: float
    reward_last: float
    difference_mean: float
    difference_max: float
    difference_max_p99: float

    @property
    def rise(self) -> float:
        return self.reward_last - self.reward_first


def main() -> int:
    """Run all; the exit code."""
    options = _options()
    outcomes = []
    for seed in options.seeds:
        for mode in MODES:
            output = options.output / f"seed-{seed}-{mode}"
            print(f"seed {seed}, mode {mode}: {output}", flush=True)
            outcomes.append(run(seed, mode, options.steps, output))
    failures = check(outcomes)
    Console().print(table(outcomes))
    report = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes], "failures": failures}
    (options.output / "learning.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"does not hold: {failure}")
    return 1 if failures else 0


def run(seed: int, mode: str, steps: int, output: Path) -> Outcome:
    """One job from its first step. `CalledProcessError` if it fails."""
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
        "spec.rollout.mode": mode,
        "spec.rollout.policy": {"name": "schedule", "schedule": SCHEDULE},
    }
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
        difference_max=largest[-1],
        difference_max_p99=percentile(largest, 0.99),
    )


def check(outcomes: Sequence[Outcome]) -> list[str]:
    """What does not hold, in words."""
    failures = [
        f"seed {outcome.seed}, {outcome.mode}: the reward rises by {outcome.rise:.3f}, less than {MIN_RISE}"
        for outcome in outcomes
        if outcome.rise < MIN_RISE
    ]
    by_run = {(outcome.seed, outcome.mode): outcome for outcome in outcomes}
    for seed in sorted({outcome.seed for outcome in outcomes}):
        switched, static = (by_run[seed, mode] for mode in MODES)
        if switched.switches == 0:
            failures.append(f"seed {seed}: mode enforce never switched")
        apart = abs(switched.reward_last - static.reward_last)
        if apart > MAX_APART:
            failures.append(f"seed {seed}: rewards end {apart:.3f} apart, more than {MAX_APART}")
        if switched.difference_mean > MAX_MEAN_RATIO * static.difference_mean:
            ratio = switched.difference_mean / static.difference_mean
            failures.append(f"seed {seed}: mean probability difference is {ratio:.2f} times the static one")
        if switched.difference_max > static.difference_max_p99:
            failures.append(
                f"seed {seed}: largest probability difference {switched.difference_max:.2e} is above the "
                f"99th percentile of the static layout's, {static.difference_max_p99:.2e}"
            )
    return failures


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
            f"{outcome.difference_max:.2e}",
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
