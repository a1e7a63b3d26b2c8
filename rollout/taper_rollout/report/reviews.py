"""Figures of stages that were put beside other plans, from their records in JSON form. Pure.

A record's `review` is None without a profile, and tells why where the stage could not be judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taper_policy.review.advice import total_gain
from taper_rollout.report.stages import Stage, committed

Review = Mapping[str, Any]


def review_figures(stages: Sequence[Stage]) -> dict[str, Any]:
    """How the stages compare with the best plans, and with what was predicted. None where nothing tells it.

    oracle_seconds, executed_paper_seconds: of the judged stages, on paper
    best_static_degree: of the layout that would have taken least in all of them
    gain_over_best_static: share of its seconds on paper
    stage_error_median: of the distances between a stage's seconds and those on paper, as a share of these
    pause_error_median: of the distances between a pause and its prediction, as a share of the pause
    """
    found = reviews(stages)
    layouts = _static_seconds(found)
    executed = sum(one["executed_seconds"] for one in found) if found else None
    best = min(layouts, key=lambda degree: layouts[degree]) if layouts else None
    return {
        "judged_stages": len(found),
        "oracle_seconds": sum(one["best_seconds"] for one in found) if found else None,
        "executed_paper_seconds": executed,
        "regret_mean": statistics.fmean(one["regret"] for one in found) if found else None,
        "best_static_degree": best,
        "gain_over_best_static": None if executed is None or best is None else 1.0 - executed / layouts[best],
        "stage_error_median": _median(abs(one["model_error"]) for one in found),
        "pause_error_median": _median(_pause_errors(stages)),
    }


def advised_figures(stages: Sequence[Stage]) -> dict[str, float | None]:
    """What following the advice would have saved, and its 95 % half width; None where none was given."""
    advised = [one["advised"] for one in reviews(stages) if one.get("advised") is not None]
    if not advised:
        return {"advised_gain_seconds": None, "advised_gain_half_width_seconds": None}
    gain, half_width = total_gain(
        [one["gain_seconds"] for one in advised], [one["half_width_seconds"] for one in advised]
    )
    return {"advised_gain_seconds": gain, "advised_gain_half_width_seconds": half_width}


def reviews(stages: Iterable[Stage]) -> list[Review]:
    """Of the stages that were judged."""
    every = (stage.get("review") for stage in stages)
    return [review for review in every if review is not None and "not_judged" not in review]


def _static_seconds(found: Sequence[Review]) -> dict[int, float]:
    """Seconds of all stages in each layout that every stage could have had."""
    degrees = set.intersection(*(set(one["static_seconds"]) for one in found)) if found else set()
    return {
        int(degree): sum(one["static_seconds"][degree] for one in found)
        for degree in sorted(degrees, key=int)
    }


def _pause_errors(stages: Iterable[Stage]) -> list[float]:
    return [
        abs(switch["predicted_pause_seconds"] - switch["pause_seconds"]) / switch["pause_seconds"]
        for switch in committed(stages)
        if switch.get("predicted_pause_seconds") is not None and switch["pause_seconds"] > 0
    ]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
