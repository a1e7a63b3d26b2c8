"""Errors of simulated stage times and predicted pauses over the runs of `generation.py`. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from parts.generation_policies import PREDICTOR
from parts.generation_report import Stages
from taper_policy.arrays import FloatArray
from taper_policy.decision.correction import MOST_WEIGHT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors as shares of the measured seconds; `stages_at_equal_speed` lacks each case's first stage."""

    stages: FloatArray
    stages_at_equal_speed: FloatArray
    pauses: FloatArray

    @classmethod
    def of(cls, found: Sequence[Stages]) -> Errors:
        """Over all cases together."""
        return cls(
            stages=np.concatenate([_errors_and_changes(stages)[0] for stages in found]),
            stages_at_equal_speed=_at_equal_speed(found),
            pauses=np.concatenate([_pause_errors(stages) for stages in found]),
        )

    def as_json(self) -> dict[str, float | None]:
        """JSON-ready: median stage errors and the 90th percentile of pause errors; None without any."""
        return {
            "stage_error_median": _quantile(self.stages, 0.5),
            "stage_error_median_at_equal_speed": _quantile(self.stages_at_equal_speed, 0.5),
            "pause_error_p90": _quantile(self.pauses, 0.9),
        }


def errors_table(found: Sequence[Stages]) -> Table:
    """A row for each case, and one for all."""
    made = Table(title="errors of simulated stages and predicted pauses", title_justify="left")
    for name in (
        "case",
        "stages",
        "seconds, median",
        "mean",
        "median at equal speed",
        "pauses",
        "median",
        "p90",
    ):
        made.add_column(name, justify="left" if name == "case" else "right")
    cases = {stages.title: [stages] for stages in found}
    for title, chosen in (cases | {"all": list(found)}).items():
        errors = Errors.of(chosen)
        made.add_row(
            title,
            str(len(errors.stages)),
            _percent(_quantile(errors.stages, 0.5)),
            f"{errors.stages.mean():+.1%}" if len(errors.stages) else "",
            _percent(_quantile(errors.stages_at_equal_speed, 0.5)),
            str(len(errors.pauses)),
            _percent(_quantile(errors.pauses, 0.5)),
            _percent(_quantile(errors.pauses, 0.9)),
        )
    return made


def _errors_and_changes(stages: Stages) -> tuple[FloatArray, FloatArray]:
    """By what share each reviewed stage took longer than simulated; and the logarithm of how much slower
    the cores were than when its profile was corrected, unknown (NaN) for the first stage of a case."""
    errors, changes, before = [], [], np.nan
    for run in stages.runs:
        slowness = float(np.log(stages.slowness_of(run)))
        if run.review and "model_error" in run.review:
            errors.append(float(run.review["model_error"]))
            changes.append(slowness - before)
        before = slowness if np.isnan(before) else (1 - MOST_WEIGHT) * before + MOST_WEIGHT * slowness
    return np.array(errors), np.array(changes)


def _at_equal_speed(found: Sequence[Stages]) -> FloatArray:
    """Errors of stages, had the cores stayed as fast as they were while the profile was corrected.

    Fits the logarithms of the errors to the speed changes by a line through zero, and subtracts the fit:
    an error that is always there stays.
    """
    both = [_errors_and_changes(stages) for stages in found]
    errors, changes = (np.concatenate(part) for part in zip(*both, strict=True))
    is_known = np.isfinite(changes)
    y, x = np.log1p(errors[is_known]), changes[is_known]
    slope = float(x @ y / (x @ x)) if x @ x > 1e-12 else 0.0
    left: FloatArray = np.expm1(y - slope * x)
    return left


def _pause_errors(stages: Stages) -> FloatArray:
    """|predicted - measured| / measured, of each of the predictor's pauses."""
    return np.array(
        [
            abs(switch["predicted_pause_seconds"] - switch["pause_seconds"]) / switch["pause_seconds"]
            for run in stages.of(PREDICTOR)
            for switch in run.switches
            if switch["outcome"] == "committed" and switch["pause_seconds"] > 0
        ]
    )


def _quantile(errors: FloatArray, share: float) -> float | None:
    return float(np.quantile(np.abs(errors), share)) if len(errors) else None


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
