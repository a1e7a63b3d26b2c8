"""How far from the best plan? `python benchmarks/regret.py [--profiles FILE ...] [--seeds 301 302]`.

Simulates stages of every regime of lengths, priced by a CPU profile and two estimated GPU profiles. Reports
the predictor's regret relative to the oracle, which knows the lengths, and its gain over the best static
layout. A job is a sequence of stages; in its first stage the predictor knows only the response cap.

The limit: regret mean <= 3 %, p95 <= 8 %, for each profile over all regimes and for each of them.
Settings were tuned on seeds below 100. Seeds 101, 102, 201 and 202 were held out at first, but each pair
missed the limit in one row (4 requests on the CPU: siblings, then uniform); then the margin of the first
decision was set, on seeds 1 to 3. `HELD_OUT_SEEDS` were first used when all settings were final.

What this does not show: the GPU profiles are estimated from published figures, and
`parts/cpu_71m.json` is made from a table of measured decode steps, its pause from a measured range. The
simulator has no prefill, and every step takes exactly the profile's time.

Prints a table and writes JSON; equal arguments give equal figures. Exits with 1 where the limit is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from taper_policy.decision.decide import DecisionSettings
from taper_policy.profile.estimated import a40_14b, h100_8b
from taper_policy.profile.file import read_profile
from taper_policy.profile.profile import Profile
from taper_policy.simulation.comparison import ORACLE, PREDICTOR, Comparison, compare
from taper_policy.simulation.length_distributions import REGIMES
from taper_rollout.report.simulation import Synthetic

HELD_OUT_SEEDS = (301, 302)
CPU_FILE = Path(__file__).parent / "parts" / "cpu_71m.json"
MAX_MEAN_REGRET, MAX_P95_REGRET = 0.03, 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A profile, and the size of stages that suits it."""

    name: str
    profile: Profile
    prompts: int
    samples: int
    prompt_tokens: int
    max_tokens: int

    def compared(self, regime: str, seed: int, stages: int) -> Comparison:
        """Simulate a job of `stages` stages under all policies."""
        synthetic = Synthetic(
            regime=regime,
            stages=stages,
            prompts=self.prompts,
            samples=self.samples,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            seed=seed,
        )
        return compare(
            synthetic.draw(),
            self.profile,
            DecisionSettings(degrees=self.profile.degrees),
            max_tokens=self.max_tokens,
        )


def gpu_settings() -> list[Setting]:
    """128 requests a replica, as in PAT's batch, at two response caps."""
    return [
        Setting(
            name=f"{name}, {cap // 1024}K",
            profile=made,
            prompts=16,
            samples=8,
            prompt_tokens=200,
            max_tokens=cap,
        )
        for name, made in (("H100 8B", h100_8b()), ("A40 14B", a40_14b()))
        for cap in (8192, 24576)
    ]


def cpu_settings(files: Sequence[Path]) -> list[Setting]:
    """As many requests as the profile's grid holds, and a quarter of them."""
    settings = []
    for file in files:
        profile = read_profile(file)
        most = max(cell.batch for cell in profile.cells if cell.degree == profile.footprint)
        for requests in (most, max(1, most // 4)):
            settings.append(
                Setting(
                    name=f"{file.stem}, {requests} requests",
                    profile=profile,
                    prompts=max(1, requests // 4),
                    samples=min(4, requests),
                    prompt_tokens=32,
                    max_tokens=1024,
                )
            )
    return settings


def figures(found: Sequence[Comparison]) -> dict[str, Any]:
    """Figures over all stages of the jobs."""
    regret = np.concatenate([job.regret(PREDICTOR) for job in found])
    switches = [count for job in found for count in job.switches[PREDICTOR]]
    seconds = {policy: sum(float(job.seconds[policy].sum()) for job in found) for policy in found[0].seconds}
    best = min(found[0].static_policies, key=lambda policy: (seconds[policy], policy))
    others = [policy for policy in seconds if policy not in (PREDICTOR, ORACLE)]
    return {
        "stages": len(regret),
        "regret_mean": float(regret.mean()),
        "regret_p95": float(np.quantile(regret, 0.95)),
        "regret_max": float(regret.max()),
        "best_static": best,
        "gain_over_best_static": 1.0 - seconds[PREDICTOR] / seconds[best],
        "oracle_gain_over_best_static": 1.0 - seconds[ORACLE] / seconds[best],
        "best_baseline": min(others, key=lambda policy: (seconds[policy], policy)),
        "switches_per_stage": float(np.mean(switches)),
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether the row is within the limits."""
    return bool(row["regret_mean"] <= MAX_MEAN_REGRET and row["regret_p95"] <= MAX_P95_REGRET)


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each setting and regime."""
    table = Table(title="predictor relative to the oracle; gains over the best static layout")
    for name in ("profile", "lengths"):
        table.add_column(name, no_wrap=True)
    for name in ("mean", "p95", "max", "static", "gain", "oracle's", "moves"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shares = (row["regret_mean"], row["regret_p95"], row["regret_max"])
        gains = (row["gain_over_best_static"], row["oracle_gain_over_best_static"])
        table.add_row(
            row["setting"],
            row["regime"],
            *(f"{share:.2%}" for share in shares),
            row["best_static"].removeprefix("static "),
            *(f"{gain:+.2%}" for gain in gains),
            f"{row['switches_per_stage']:.1f}",
        )
    return table


def main() -> int:
    """Compare all, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", type=Path, nargs="*", default=[CPU_FILE], help="measured profiles")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(HELD_OUT_SEEDS))
    parser.add_argument("--stages", type=int, default=40, help="stages of a job")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/regret.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for setting in [*cpu_settings(options.profiles), *gpu_settings()]:
        jobs = {
            regime: [setting.compared(regime, seed, options.stages) for seed in options.seeds]
            for regime in REGIMES
        }
        rows += [{"setting": setting.name, "regime": name, **figures(found)} for name, found in jobs.items()]
        every = [job for found in jobs.values() for job in found]
        rows.append({"setting": setting.name, "regime": "all", **figures(every)})
    Console().print(table_of(rows))
    missed = [f"{row['setting']}, {row['regime']}" for row in rows if not holds(row)]
    print(f"the limit is missed in: {'; '.join(missed)}" if missed else "all rows are within the limits")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"seeds": options.seeds, "stages": options.stages, "rows": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {options.output}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
