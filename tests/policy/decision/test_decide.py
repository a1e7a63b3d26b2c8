"""What the replica asks: the same answer for the same facts, and staying where nothing can be judged."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.decide import DecisionSettings, decide
from taper_policy.decision.pricing import Choice, PredictorSettings
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import Forecast, LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.profile.estimated import h100_8b
from taper_policy.profile.profile import Profile

from ...examples import examples

MAX_TOKENS = 4096
RULES = DecisionSettings(degrees=(1, 2, 4, 8))
SHY = DecisionSettings(degrees=(1, 2, 4, 8), predictor=PredictorSettings(margin_share=0.9))
PROFILE = h100_8b()


def history() -> LengthHistory:
    known = LengthHistory()
    for _ in range(2):
        known.start_stage()
        for index in range(40):
            known.add_finished(f"p{index % 10}", 100 + 90 * index)
    known.start_stage()
    return known


def request(index: int, group: int, decoded: int) -> LiveRequest:
    return LiveRequest(
        rid=f"r{index:03}", prompt=f"p{index % 10}", group=group, prompt_tokens=200, decoded_tokens=decoded
    )


def snapshot(live: list[LiveRequest], degree: int = 1, **changes: object) -> Snapshot:
    made = Snapshot(at_seconds=100.0, footprint=8, degree=degree, running=()).with_live(tuple(live))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def decided(state: Snapshot, profile: Profile = PROFILE, now: float = 100.1) -> Choice:
    return decide(state, profile, of(state), RULES, now)


def of(state: Snapshot) -> Forecast:
    return forecast(state.live, history(), max_tokens=MAX_TOKENS)


LIVE = st.lists(st.tuples(st.integers(0, 7), st.integers(0, MAX_TOKENS - 1)), min_size=1, max_size=30)


@examples(30)
@given(LIVE, st.sampled_from([1, 2, 4, 8]), st.randoms(use_true_random=False))
def test_equal_facts_give_equal_choices_in_any_order(
    live: list[tuple[int, int]], degree: int, random: object
) -> None:
    requests = [request(i, group // degree, decoded) for i, (group, decoded) in enumerate(live)]
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decided(snapshot(requests, degree)) == decided(snapshot(shuffled, degree))


def test_a_lone_long_response_widens_unless_the_margin_is_too_large() -> None:
    state = snapshot([request(0, 0, 1000)])
    keen, shy = decided(state), decide(state, PROFILE, of(state), SHY, 100.1)
    assert keen.degree > 1 and "gained" in keen.reason
    assert shy.degree == 1 and shy.options == keen.options


@pytest.mark.parametrize(
    ("changes", "now", "reason"),
    [
        ({"live": ()}, 100.0, "nothing is running"),
        ({"waiting": 3}, 100.0, "3 requests wait for room"),
        ({"arrivals_settled": False}, 100.0, "requests may still arrive"),
        ({}, 106.0, "the snapshot is 6.0 s old"),
        ({}, 99.0, "the snapshot is -1.0 s old"),
        ({}, float("nan"), "the snapshot is nan s old"),
    ],
    ids=str,
)
def test_where_it_must_not_judge_it_stays(changes: dict[str, object], now: float, reason: str) -> None:
    state = dataclasses.replace(snapshot([request(0, 0, 1000)]), **changes)  # type: ignore[arg-type]
    known = of(snapshot([request(0, 0, 1000)]))
    choice = decide(state, PROFILE, known, RULES, now)
    assert (choice.degree, choice.reason) == (1, reason)


def test_a_forecast_of_other_requests_is_not_used() -> None:
    state = snapshot([request(0, 0, 1000)])
    other = of(snapshot([request(1, 0, 1000)]))
    assert decide(state, PROFILE, other, RULES, 100.0).reason == "the forecast is of other requests"


def test_a_layout_that_the_profile_does_not_know_keeps_the_present_one() -> None:
    partial = dataclasses.replace(
        PROFILE, switch={pair: terms for pair, terms in PROFILE.switch.items() if 8 not in pair}
    )
    choice = decided(snapshot([request(0, 0, 1000)]), partial)
    assert choice.degree == 1
    assert choice.reason.startswith("cannot be priced: switch.")
