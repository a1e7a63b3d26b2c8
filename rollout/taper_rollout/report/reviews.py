"""How the stages of a run compare with other plans, from the reviews in their records. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from taper_policy.review.advice import total_gain
from taper_rollout.report.stage import Review, StageReport, committed


def review_figures(stages: Sequence[StageReport]) -> dict[str, Any]:
    """Compare the stages with the best plans and with their predictions. None where nothing was measured.

    oracle_seconds, executed_simulated_seconds: simulated seconds of the judged stages, under the best plans
        and under the plans that were executed
    best_static_degree: of the layout that, kept throughout, would have taken least over all of them
    gain_over_best_static: share of that layout's simulated seconds
    stage_error_median: of the differences between measured and simulated seconds of a stage, as a share of
        the simulated ones
    pause_error_median: of the differences between measured and predicted pauses, as a share of the measured
    """
    found = reviews(stages)
    layouts = _static_seconds(found)
    executed = sum(review.executed_seconds for review in found) if found else None
    best = min(layouts, key=lambda degree: layouts[degree]) if layouts else None
    return {
        "judged_stages": len(found),
        "oracle_seconds": sum(review.best_seconds for review in found) if found else None,
        "executed_simulated_seconds": executed,
        "regret_mean": statistics.fmean(review.regret for review in found) if found else None,
        "best_static_degree": best,
        "gain_over_best_static": None if executed is None or best is None else 1.0 - executed / layouts[best],
        "stage_error_median": _median(abs(review.model_error) for review in found),
        "pause_error_median": _median(_pause_errors(stages)),
    }


def advised_figures(stages: Sequence[StageReport]) -> dict[str, float | None]:
    """What following the advice would have saved, and its 95 % half width; None where none was given."""
    advised = [review.advised for review in reviews(stages) if review.advised is not None]
    if not advised:
        return {"advised_gain_seconds": None, "advised_gain_half_width_seconds": None}
    gain, half_width = total_gain(
        [each.gain_seconds for each in advised], [each.half_width_seconds for each in advised]
    )
    return {"advised_gain_seconds": gain, "advised_gain_half_width_seconds": half_width}


def reviews(stages: Iterable[StageReport]) -> list[Review]:
    """The reviews of the stages that were judged."""
    return [stage.review for stage in stages if stage.review is not None]


def _static_seconds(found: Sequence[Review]) -> dict[int, float]:
    """Seconds of all stages in each layout that every stage could have had."""
    degrees = set.intersection(*(set(review.static_seconds) for review in found)) if found else set()
    return {degree: sum(review.static_seconds[degree] for review in found) for degree in sorted(degrees)}


def _pause_errors(stages: Iterable[StageReport]) -> list[float]:
    return [
        abs(switch.predicted_pause_seconds - switch.pause_seconds) / switch.pause_seconds
        for switch in committed(stages)
        if switch.predicted_pause_seconds is not None and switch.pause_seconds > 0
    ]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
