"""How the stages of a run compare with other plans, from the reviews in their records. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from taper_policy.review.advice import total_gain
from taper_rollout.events import Review, SwitchRecord


def review_figures(reviews: Sequence[Review], committed: Iterable[SwitchRecord]) -> dict[str, Any]:
    """Compare judged stages with the best plans and with predictions. None where nothing was measured.

    oracle_seconds, executed_simulated_seconds: simulated seconds of the judged stages, under the best plans
        and under the plans that were executed
    best_static_degree: of the layout that, kept throughout, would have taken least over all of them
    gain_over_best_static: share of that layout's simulated seconds
    stage_error_median: of the differences between measured and simulated seconds of a stage, as a share of
        the simulated ones
    pause_error_median: of the differences between measured and predicted pauses, as a share of the measured
    """
    layouts = _static_seconds(reviews)
    executed = sum(review["executed_seconds"] for review in reviews) if reviews else None
    best = min(layouts, key=lambda degree: layouts[degree]) if layouts else None
    return {
        "judged_stages": len(reviews),
        "oracle_seconds": sum(review["best_seconds"] for review in reviews) if reviews else None,
        "executed_simulated_seconds": executed,
        "regret_mean": statistics.fmean(review["regret"] for review in reviews) if reviews else None,
        "best_static_degree": best,
        "gain_over_best_static": None if executed is None or best is None else 1.0 - executed / layouts[best],
        "stage_error_median": _median(abs(review["model_error"]) for review in reviews),
        "pause_error_median": _median(_pause_errors(committed)),
    }


def advised_figures(reviews: Iterable[Review]) -> dict[str, float | None]:
    """What following the advice would have saved, and its 95 % half width; None where none was given."""
    advised = [review["advised"] for review in reviews if "advised" in review]
    if not advised:
        return {"advised_gain_seconds": None, "advised_gain_half_width_seconds": None}
    gain, half_width = total_gain(
        [each["gain_seconds"] for each in advised], [each["half_width_seconds"] for each in advised]
    )
    return {"advised_gain_seconds": gain, "advised_gain_half_width_seconds": half_width}


def _static_seconds(reviews: Sequence[Review]) -> dict[int, float]:
    """Seconds of all stages in each layout that every stage could have had, by ascending degree."""
    found = [review["static_seconds"] for review in reviews]
    degrees = set.intersection(*(set(seconds) for seconds in found)) if found else set()
    return {int(degree): sum(seconds[degree] for seconds in found) for degree in sorted(degrees, key=int)}


def _pause_errors(committed: Iterable[SwitchRecord]) -> list[float]:
    return [
        abs(switch.predicted_pause_seconds - switch.pause_seconds) / switch.pause_seconds
        for switch in committed
        if switch.predicted_pause_seconds is not None and switch.pause_seconds > 0
    ]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
