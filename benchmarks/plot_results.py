"""Draws the charts of `docs/results.md` from the raw tables in `benchmarks/results`; prints derived figures.

    python benchmarks/plot_results.py                          # docs/images/results/*.svg
    python benchmarks/plot_results.py --output /tmp/charts --format png

Intervals are those of the tables, and two that are computed here: of a share of which every trial succeeded
(Clopper-Pearson), and of a mean over three seeds (Student's t with two degrees of freedom). Both are of 95 %.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "results"
CHARTS = ROOT / "docs" / "images" / "results"
FIRST_DAY, SECOND_DAY = "2026-11-21", "2026-11-22"
T_TWO_DEGREES = 4.303  # Student's t, 97.5 %, two degrees of freedom
NARROW_STEP_MS = 124.0  # of the model whose pause was measured
BLUE, ORANGE, GREY, GREEN = "#3b6ea8", "#d0762b", "#8a929a", "#4a8f5b"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "taper",  # the same file from the same tables
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}
Row = dict[str, str]
Interval = tuple[float, float, float]  # estimate, low, high


def table(day: str, name: str) -> list[Row]:
    """The rows of one raw table."""
    with (TABLES / day / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gain(row: Row, prefix: str = "") -> Interval | None:
    """A row's gain in percent with its interval; none for the layout that the others are compared with."""
    if not row[f"{prefix}gain"]:
        return None
    estimate, low, high = (100 * float(row[f"{prefix}gain{part}"]) for part in ("", "_low", "_high"))
    return estimate, low, high


def all_succeeded(trials: int) -> Interval:
    """The share of successes in percent where all trials succeeded."""
    return 100.0, 100 * 0.025 ** (1 / trials), 100.0


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean of three values and its interval."""
    if len(values) != 3:
        raise ValueError(f"the quantile is that of three values, not of {len(values)}")
    half = T_TWO_DEGREES * statistics.stdev(values) / 3**0.5
    mean = statistics.mean(values)
    return mean, mean - half, mean + half


def draw_intervals(axes: Any, intervals: Sequence[Interval | None], *, offset: float, **how: Any) -> None:
    """A dot and a line for each interval, from the top down."""
    present = [(row + offset, interval) for row, interval in enumerate(intervals) if interval is not None]
    places = [place for place, _ in present]
    middles = [interval[0] for _, interval in present]
    sides = [
        [middle - low for _, (middle, low, _) in present],
        [high - middle for _, (middle, _, high) in present],
    ]
    axes.errorbar(middles, places, xerr=sides, fmt="o", markersize=5, capsize=3, linewidth=1.4, **how)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Write names beside the rows, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def exactness() -> Any:
    """Responses that equal those of the run without switches."""
    rows = table(FIRST_DAY, "exactness")
    if any(row["equal"] != row["responses"] for row in rows):
        raise ValueError("not all responses are equal: the interval does not hold")
    counts = [int(row["responses"]) for row in rows]
    names = [f"{row['model']}: {row['equal']} of {row['responses']}" for row in rows]
    names.append(f"together: {sum(counts)} of {sum(counts)}")
    intervals = [all_succeeded(count) for count in [*counts, sum(counts)]]
    print(f"exactness: together {intervals[-1][0]:.0f} % [{intervals[-1][1]:.1f}, {intervals[-1][2]:.0f}]")
    figure, axes = pyplot.subplots(figsize=(7.2, 2.3))
    draw_intervals(axes, intervals, offset=0, color=BLUE)
    name_rows(axes, names)
    axes.set_xlim(0, 104)
    axes.set_xlabel("responses equal to the run without switches, % (95 % interval)")
    return figure


def learning() -> Any:
    """Rewards at the end, and the probability difference of rollout and trainer relative to static runs."""
    rows = table(FIRST_DAY, "learning")
    seeds = sorted({row["seed"] for row in rows})
    ratios = [_difference_ratio([row for row in rows if row["seed"] == seed]) for seed in seeds]
    pooled = over_seeds(ratios)
    print(
        "learning: difference, switched over static, by seed " + ", ".join(f"{each:.3f}" for each in ratios)
    )
    print(f"learning: mean of the seeds {pooled[0]:.3f} [{pooled[1]:.3f}, {pooled[2]:.3f}]")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.2, 2.5))
    for place, (run, colour) in enumerate((("switched", ORANGE), ("narrow", BLUE), ("wide", GREY))):
        ends = [float(row["reward_last"]) for row in rows if row["run"] == run]
        left.plot([int(seed) + 0.12 * (place - 1) for seed in seeds], ends, "o", color=colour, label=run)
    left.set(ylim=(0.9, 1.005), xlabel="seed", ylabel="reward, last five steps")
    left.set_xticks([int(seed) for seed in seeds])
    left.legend(frameon=False, fontsize=8, loc="lower right")
    draw_intervals(right, [(each, each, each) for each in ratios] + [None], offset=0, color=GREY)
    draw_intervals(right, [None, None, None, pooled], offset=0, color=ORANGE)
    name_rows(right, [*(f"seed {seed}" for seed in seeds), "mean"])
    right.set_xticks([0.9, 0.95, 1.0, 1.05])
    right.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    right.set_xlabel("|rollout - trainer| probability,\nswitched over static")
    return figure


def _difference_ratio(rows: Sequence[Row]) -> float:
    switched = [float(row["difference_mean"]) for row in rows if row["run"] == "switched"]
    static = [float(row["difference_mean"]) for row in rows if row["run"] != "switched"]
    return statistics.mean(switched) / statistics.mean(static)


def pause() -> Any:
    """The pause of a switch by phase, and its median and 95th percentile."""
    rows = table(FIRST_DAY, "switch_pause")
    phases = {
        "wait_for_boundary_ms": ("wait for the end of the step", GREY),
        "kv_84_mb_ms": ("KV cache, 84 MB", BLUE),
        "agreement_requests_admission_ms": ("agreement, requests, admission", GREEN),
        "first_step_ms": ("first step", "#a9c4e0"),
    }
    figure, axes = pyplot.subplots(figsize=(8.2, 2.4))
    for place, row in enumerate(rows):
        left = 0.0
        for name, (label, colour) in phases.items():
            width = float(row[name])
            axes.barh(place, width, left=left, height=0.5, color=colour, label=label if place == 0 else None)
            left += width
        low, high = float(row["pause_p50_ms"]), float(row["pause_p95_narrow_steps"]) * NARROW_STEP_MS
        print(f"pause: {row['direction']}: p50 {low:.0f} ms, p95 {high:.0f} ms")
        whole = "whole pause: p50 to p95" if place == 0 else None
        axes.plot([low, high], [place + 0.36] * 2, "|-", color=ORANGE, label=whole)
    name_rows(axes, [f"{row['direction']}\n{row['switches']} switches" for row in rows])
    axes.set_ylim(1.6, -0.5)
    axes.set_xlabel(f"milliseconds; a decode step in the narrow layout takes {NARROW_STEP_MS:.0f}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def long_tails() -> Any:
    """Gains over the best static layout with long-tailed lengths, mean of three cases."""
    rows = [row for row in table(SECOND_DAY, "generation_deep_mean") if row["arm"] != "static TP2"]
    figure, axes = pyplot.subplots(figsize=(7.2, 3.0))
    _draw_gains(axes, rows)
    name_rows(axes, [row["arm"] for row in rows])
    axes.set_xlabel("gain over the best static layout of each case (TP2), % (95 % interval, 21 repeats)")
    return figure


def uniform() -> Any:
    """Gains over the best static layout with uniform lengths."""
    every = table(SECOND_DAY, "generation_deep_uniform")
    figure, panels = pyplot.subplots(1, 2, figsize=(8.2, 2.3), sharey=True)
    for axes, requests in zip(panels, ("192", "64"), strict=True):
        rows = [row for row in every if row["requests"] == requests and row["arm"] != "static TP1"]
        _draw_gains(axes, rows, legend=requests == "192")
        name_rows(axes, [row["arm"] for row in rows])
        axes.set_title(f"{requests} requests of one length", fontsize=10)
        axes.set_xlabel("gain over static TP1, %")
    return figure


def cases(name: str, *, second: str) -> Callable[[], Any]:
    """Gains over the best static layout, a panel for each kind and number of lengths."""

    def draw() -> Any:
        rows = table(SECOND_DAY, name)
        keys = list(dict.fromkeys((row["lengths"], row["requests"]) for row in rows))
        columns = 3
        lines = -(-len(keys) // columns)
        figure, panels = pyplot.subplots(lines, columns, figsize=(11, 2.9 * lines), squeeze=False)
        for axes in panels.flat[len(keys) :]:
            axes.axis("off")
        for axes, key in zip(panels.flat, keys, strict=False):
            mine = [row for row in rows if (row["lengths"], row["requests"]) == key and gain(row) is not None]
            _draw_gains(axes, mine, second=second, legend=key == keys[0])
            name_rows(axes, [row["arm"] for row in mine])
            best = next(row["best_static"] for row in mine)
            axes.set_title(f"{key[0]}, {key[1]} requests", fontsize=10)
            axes.set_xlabel(f"gain over static {best}, %", fontsize=9)
        return figure

    return draw


def _draw_gains(axes: Any, rows: Sequence[Row], *, second: str = "equal_speed_", legend: bool = True) -> None:
    draw_intervals(axes, [gain(row) for row in rows], offset=-0.12, color=BLUE, label="wall time")
    if second:
        equal = [gain(row, second) for row in rows]
        draw_intervals(axes, equal, offset=0.16, color=ORANGE, label="at equal core speed")
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    if legend and second:
        axes.legend(frameon=False, fontsize=8, loc="lower left")


FIGURES: dict[str, Callable[[], Any]] = {
    "exactness": exactness,
    "learning": learning,
    "pause": pause,
    "long-tails": long_tails,
    "uniform": uniform,
    "cases-deep": cases("generation_deep", second="equal_speed_"),
    "cases-wide": cases("generation_wide", second=""),
}


def main() -> None:
    """Draw all charts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=CHARTS)
    parser.add_argument("--format", default="svg", choices=["svg", "png"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw()
            metadata = {"Date": None} if options.format == "svg" else {}
            figure.savefig(options.output / f"{name}.{options.format}", dpi=110, metadata=metadata)
            pyplot.close(figure)
            print(f"charts: wrote {name}.{options.format}")


if __name__ == "__main__":
    main()
