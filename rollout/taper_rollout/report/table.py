"""The tables that a run ends with, from its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

MAX_SWITCH_ROWS = 12


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One row per figure."""
    table = Table(title=f"Run {summary['outcome']}", title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    first, last = summary["reward_first"], summary["reward_last"]
    rise = f"  ({last - first:+.3f})" if first is not None and last is not None else ""
    table.add_row("steps", str(summary["steps"]))
    resumed = summary.get("resumed")
    if resumed is not None and resumed["directory"] is not None:
        table.add_row("resumed after", f"step {resumed['step']}")
    table.add_row("reward, first → last", f"{_number(first, 3)} → {_number(last, 3)}{rise}")
    table.add_row("generation", _seconds(summary["generation_seconds"]))
    table.add_row("switches", f"{summary['switches']} in {summary['steps_with_switches']} steps")
    for outcome in ("refused", "aborted"):
        if summary[f"switches_{outcome}"]:
            table.add_row(f"switches {outcome}", str(summary[f"switches_{outcome}"]))
    table.add_row("pause, all switches", _seconds(summary["pause_seconds"]))
    table.add_row("measured gain over staying", _seconds(summary["gain_seconds"], sign=True))
    table.add_row("idle rank-seconds", _seconds(summary["idle_rank_seconds"]))
    if summary["judged_stages"]:
        _add_review(table, summary)
    if summary["responses"]:
        lengths = [summary[f"response_tokens_{name}"] for name in ("median", "p99", "longest")]
        table.add_row(
            "response tokens, median / p99 / longest", " / ".join(f"{value:.0f}" for value in lengths)
        )
    return table


def _add_review(table: Table, summary: Mapping[str, Any]) -> None:
    stages = f"{summary['judged_stages']} stage{'' if summary['judged_stages'] == 1 else 's'}"
    table.add_row(f"simulated time of {stages}", _seconds(summary["executed_simulated_seconds"]))
    table.add_row("simulated time of the best plans", _seconds(summary["oracle_seconds"]))
    table.add_row("regret, mean", f"{summary['regret_mean']:.1%}")
    layout = f"TP{summary['best_static_degree']}"
    table.add_row(f"gain over the best static layout, {layout}", f"{summary['gain_over_best_static']:+.1%}")
    table.add_row("simulated stage time, median error", f"{summary['stage_error_median']:.1%}")
    if summary["pause_error_median"] is not None:
        table.add_row("predicted pause, median error", f"{summary['pause_error_median']:.1%}")


def advice_text(summary: Mapping[str, Any]) -> str | None:
    """What following the advice would have saved; None for a run without `mode: advise`."""
    gain = summary["advised_gain_seconds"]
    if gain is None:
        return None
    half_width = summary["advised_gain_half_width_seconds"]
    return f"following the advice would have saved {gain:.2f} ± {half_width:.2f} s of generation"


def switch_table(summary: Mapping[str, Any]) -> Table | None:
    """The last `MAX_SWITCH_ROWS` switches, a row each; None if the run made none."""
    gains = summary["gains"]
    if not gains:
        return None
    shown = gains[-MAX_SWITCH_ROWS:]
    title = "Switches" if len(shown) == len(gains) else f"Last {len(shown)} of {len(gains)} switches"
    table = Table(title=title, title_justify="left")
    for name in (
        "step",
        "replica",
        "layout",
        "live",
        "pause",
        "rest if it had stayed",
        "rest as measured",
        "gain",
    ):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for switch in shown:
        table.add_row(
            str(switch["step"]),
            str(switch["replica"]),
            f"TP{switch['from_degree']} → TP{switch['to_degree']}",
            str(switch["live_requests"]),
            f"{switch['pause_seconds'] * 1000:.0f} ms",
            _seconds(switch["staying_seconds"]),
            _seconds(switch["actual_seconds"]),
            _seconds(switch["gain_seconds"], sign=True),
        )
    return table


def _seconds(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "not measured"
    return f"{value:+.2f} s" if sign else f"{value:.2f} s"


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
