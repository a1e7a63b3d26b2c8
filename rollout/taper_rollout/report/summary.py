"""The step lines and the summary of a run. Pure.

The gain of a switch is measured within its replica's stage: how long the rest of the stage would have
taken in the old layout, minus how long it took. A switch without measured step times of the old layout
has no gain, and the total leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taper_rollout.events import SwitchDone
from taper_rollout.report.reviews import advised_figures
from taper_rollout.report.stage_figures import StageFigures

REWARD_METRIC = "critic/score/mean"
SWITCH_FIELDS = (
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


def step_line(step: int, metrics: Mapping[str, float], stages: StageFigures) -> dict[str, Any]:
    """A line of `metrics.jsonl`: the figures of the step's own stages, and VeRL's under `metrics`."""
    return {
        "step": step,
        "reward": finite(metrics.get(REWARD_METRIC)),
        **stages.as_json(),
        "metrics": {name: finite(value) for name, value in metrics.items()},
    }


def summarise(lines: Sequence[Mapping[str, Any]], stages: StageFigures, *, outcome: str) -> dict[str, Any]:
    """The content of `summary.json`. `lines` are those of `metrics.jsonl`, by ascending step.

    `gains` has an entry for each committed switch. Rewards are None where no step was finished.
    """
    rewards = [line["reward"] for line in lines if line["reward"] is not None]
    switches = stages.committed()
    outcomes = [done.switch.outcome for done in stages.switches]
    return {
        "outcome": outcome,
        "steps": len(lines),
        "reward_first": rewards[0] if rewards else None,
        "reward_last": rewards[-1] if rewards else None,
        **stages.as_json(),
        "switches_refused": outcomes.count("refused"),
        "switches_aborted": outcomes.count("aborted"),
        "steps_with_switches": len({done.step for done in switches}),
        **advised_figures(stages.reviews),
        "gains": [_gain(done) for done in switches],
    }


def _gain(done: SwitchDone) -> dict[str, Any]:
    fields = {field: getattr(done.switch, field) for field in SWITCH_FIELDS}
    return {"step": done.step, "replica": done.replica} | fields


def finite(value: float | None) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
