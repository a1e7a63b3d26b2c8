"""Figures of generation stages, from their records in JSON form (`events.StageRecord`). Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Stage = Mapping[str, Any]


def generation_seconds(stages: Iterable[Stage]) -> float:
    """Wall seconds in which at least one stage was under way: replicas that generate together count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((stage["started_at"], stage["ended_at"]) for stage in stages):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def committed(stages: Iterable[Stage]) -> list[Mapping[str, Any]]:
    """The switches that took place, in order of time, each with its stage's `step` and `replica`."""
    switches = [
        {"step": stage["step"], "replica": stage["replica"], **switch}
        for stage in stages
        for switch in stage["switches"]
        if switch["outcome"] == "committed"
    ]
    return sorted(switches, key=lambda switch: switch["at"])


def layout_text(num_ranks: int, degree: int) -> str:
    """A uniform layout as people write it, like 2\N{MULTIPLICATION SIGN}TP1."""
    return f"{num_ranks // degree}\N{MULTIPLICATION SIGN}TP{degree}"


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the values that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def length_figures(stages: Iterable[Stage]) -> dict[str, float | int]:
    """How many responses, and the median, 99th percentile and maximum of their tokens."""
    lengths = sorted(request["response_tokens"] for stage in stages for request in stage["requests"])
    if not lengths:
        return {"responses": 0}
    return {
        "responses": len(lengths),
        "response_tokens": sum(lengths),
        "response_tokens_median": statistics.median(lengths),
        "response_tokens_p99": percentile(lengths, 0.99),
        "response_tokens_longest": lengths[-1],
    }


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated; `ascending` has at least one value."""
    place = share * (len(ascending) - 1)
    low = int(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (place - low)
