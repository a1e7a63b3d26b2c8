"""The predictor's decision, as a pure function of snapshot, profile, forecast, settings and time.

`decide` gives a reason for every answer. It stays in the present layout if it cannot judge: nothing is
running, requests wait for room or may still arrive, the snapshot is too old or from the future, the
forecast is for other requests, or the profile cannot price a layout.

Invariants (asserted by `tests/policy/decision/test_decide.py`):
- equal arguments give equal choices, also with the live requests in another order;
- it does not raise for any snapshot: an error of the predictor never stops generation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from taper_policy.decision.pricing import Choice, PredictorSettings, Prices, choose
from taper_policy.decision.scenarios import Scenarios
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import Forecast

STALE_SECONDS: Final = 5.0
SCENARIOS: Final = (8, 32)
SCENARIO_REQUESTS: Final = 2048
SCENARIO_SEED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSettings:
    """The degrees of the layouts that may be taken, up to the footprint, and how large a gain must be."""

    degrees: tuple[int, ...]
    predictor: PredictorSettings = field(default_factory=PredictorSettings)


def decide(
    snapshot: Snapshot, profile: Prices, forecast: Forecast, settings: DecisionSettings, now: float
) -> Choice:
    """The layout to have now, and why. Never raises; stays where it cannot judge."""
    reason = _why_not(snapshot, forecast, now)
    if reason is not None:
        return Choice(degree=snapshot.degree, reason=reason)
    try:
        return _priced(snapshot, profile, forecast, settings)
    except (ValueError, ArithmeticError) as error:
        return Choice(degree=snapshot.degree, reason=f"cannot be priced: {error}")


def scenario_count(num_live: int) -> int:
    """How many scenarios to draw for `num_live` requests: fewer for many, because their sums vary less."""
    fewest, most = SCENARIOS
    return max(fewest, min(most, SCENARIO_REQUESTS // num_live))


def _why_not(snapshot: Snapshot, forecast: Forecast, now: float) -> str | None:
    age = now - snapshot.at_seconds
    if not snapshot.live:
        return "nothing is running"
    if snapshot.waiting:
        return f"{snapshot.waiting} requests wait for room"
    if not snapshot.arrivals_settled:
        return "requests may still arrive"
    if not 0.0 <= age <= STALE_SECONDS:
        return f"the snapshot is {age:.1f} s old"
    if set(forecast.rids) != {request.rid for request in snapshot.live}:
        return "the forecast is of other requests"
    return None


def _priced(snapshot: Snapshot, profile: Prices, forecast: Forecast, settings: DecisionSettings) -> Choice:
    order = {rid: index for index, rid in enumerate(forecast.rids)}
    live = sorted(snapshot.live, key=lambda request: request.rid)
    remaining = forecast.scenarios(scenario_count(len(live)), SCENARIO_SEED)[
        :, [order[request.rid] for request in live]
    ]
    scenarios = Scenarios.of(
        remaining,
        [request.prompt_tokens + request.decoded_tokens for request in live],
        [request.group for request in live],
        num_groups=snapshot.footprint // snapshot.degree,
    )
    return choose(
        scenarios,
        profile,
        settings.predictor,
        degree=snapshot.degree,
        degrees=sorted({*settings.degrees, snapshot.degree}),
        footprint=snapshot.footprint,
        boundary_seconds=snapshot.boundary_seconds,
    )
