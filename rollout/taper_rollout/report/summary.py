"""The step lines and the summary of a run. Pure.

The gain of a switch is measured within its replica's stage: how long the rest of the stage would have
taken in the old layout, minus how long it took. A switch without measured step times of the old layout
has no gain, and the total leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taper_rollout.report.reviews import advised_figures, review_figures
from taper_rollout.report.stage import StageReport, committed, generation_seconds, length_figures, total

REWARD_METRIC = "critic/score/mean"
SWITCH_FIELDS = (
    "step",
    "replica",
    "at",
    "from_degree",
    "to_degree",
    "kv",
    "live_requests",
    "migrated_requests",
    "recomputed_requests",
    "pause_seconds",
    "staying_seconds",
    "actual_seconds",
    "gain_seconds",
)


def step_line(step: int, metrics: Mapping[str, float], stages: Sequence[StageReport]) -> dict[str, Any]:
    """A line of `metrics.jsonl`: the step's own figures, and VeRL's under `metrics`."""
    switches = committed(stages)
    return {
        "step": step,
        "reward": finite(metrics.get(REWARD_METRIC)),
        "generation_seconds": generation_seconds(stages),
        "switches": len(switches),
        "pause_seconds": sum(switch.pause_seconds for switch in switches),
        "gain_seconds": total(switch.gain_seconds for switch in switches),
        "idle_rank_seconds": sum(stage.idle_rank_seconds for stage in stages),
        **length_figures(stages),
        **review_figures(stages),
        "metrics": {name: finite(value) for name, value in metrics.items()},
    }


def summarise(
    lines: Sequence[Mapping[str, Any]], stages: Sequence[StageReport], *, outcome: str
) -> dict[str, Any]:
    """The content of `summary.json`. `lines` are those of `metrics.jsonl`, by ascending step.

    `gains` has an entry for each committed switch. Rewards are None where no step was finished.
    """
    rewards = [line["reward"] for line in lines if line["reward"] is not None]
    switches = committed(stages)
    outcomes = [switch.outcome for stage in stages for switch in stage.switches]
    return {
        "outcome": outcome,
        "steps": len(lines),
        "reward_first": rewards[0] if rewards else None,
        "reward_last": rewards[-1] if rewards else None,
        "generation_seconds": generation_seconds(stages),
        "switches": len(switches),
        "switches_refused": outcomes.count("refused"),
        "switches_aborted": outcomes.count("aborted"),
        "steps_with_switches": len({switch.step for switch in switches}),
        "pause_seconds": sum(switch.pause_seconds for switch in switches),
        "gain_seconds": total(switch.gain_seconds for switch in switches),
        "idle_rank_seconds": sum(stage.idle_rank_seconds for stage in stages),
        **length_figures(stages),
        **review_figures(stages),
        **advised_figures(stages),
        "gains": [{field: getattr(switch, field) for field in SWITCH_FIELDS} for switch in switches],
    }


def finite(value: float | None) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
