"""Figures over finished stages: those that a step's line and the summary of the run have in common. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np

from taper_rollout.events import Review, StageRecord, SwitchDone
from taper_rollout.report.reviews import review_figures


class StageFigures:
    """Adds up stages. Keeps only what the figures need: all requests of a long run are too many."""

    def __init__(self, stages: Iterable[StageRecord] = ()) -> None:
        self.switches: list[SwitchDone] = []
        self.reviews: list[Review] = []
        self.lengths: list[int] = []
        self._spans: list[tuple[float, float]] = []
        self._idle_rank_seconds = 0.0
        for stage in stages:
            self.add(stage)

    def add(self, stage: StageRecord) -> None:
        """Add a stage."""
        self.switches += [
            SwitchDone(replica=stage.replica, step=stage.step, switch=switch) for switch in stage.switches
        ]
        if stage.review is not None and "not_judged" not in stage.review:
            self.reviews.append(stage.review)
        self.lengths += [request.response_tokens for request in stage.requests]
        self._spans.append((stage.started_at, stage.ended_at))
        self._idle_rank_seconds += stage.idle_rank_seconds

    def committed(self) -> list[SwitchDone]:
        """The switches that took effect, in order of time."""
        found = [done for done in self.switches if done.switch.outcome == "committed"]
        return sorted(found, key=lambda done: done.switch.at)

    def generation_seconds(self) -> float:
        """Wall time in which at least one stage was running: replicas that generate together count once."""
        total, reached = 0.0, float("-inf")
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def length_figures(self) -> dict[str, float | int]:
        """The number of responses, and the median, 99th percentile and maximum of their tokens."""
        if not self.lengths:
            return {"responses": 0}
        return {
            "responses": len(self.lengths),
            "response_tokens": sum(self.lengths),
            "response_tokens_median": statistics.median(self.lengths),
            "response_tokens_p99": float(np.quantile(self.lengths, 0.99)),
            "response_tokens_longest": max(self.lengths),
        }

    def as_json(self) -> dict[str, Any]:
        """All figures, JSON-ready."""
        switches = [done.switch for done in self.committed()]
        return {
            "generation_seconds": self.generation_seconds(),
            "switches": len(switches),
            "pause_seconds": sum(switch.pause_seconds for switch in switches),
            "gain_seconds": total(switch.gain_seconds for switch in switches),
            "idle_rank_seconds": self._idle_rank_seconds,
            **self.length_figures(),
            **review_figures(self.reviews, switches),
        }


def layout_text(num_ranks: int, degree: int) -> str:
    """A uniform layout as groups times degree, like 2\N{MULTIPLICATION SIGN}TP1."""
    return f"{num_ranks // degree}\N{MULTIPLICATION SIGN}TP{degree}"


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the values that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
