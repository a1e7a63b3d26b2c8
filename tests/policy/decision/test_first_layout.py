"""A stage begins in the layout that is best for what is expected of it."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.first_layout import ExpectedStage, first_layout
from taper_policy.decision.pricing import Choice, PredictorSettings
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.profile.estimated import h100_8b
from taper_policy.profile.profile import Profile

from ...examples import examples

PROFILE = h100_8b()
RULES = DecisionSettings(degrees=(1, 2, 4, 8))


def history_of(lengths: list[int]) -> LengthHistory:
    known = LengthHistory()
    known.start_stage()
    for index, tokens in enumerate(lengths):
        known.add_finished(f"p{index // 4}", tokens)
    known.start_stage()
    return known


def first(
    num_requests: int,
    lengths: list[int],
    *,
    max_tokens: int = 4096,
    profile: Profile = PROFILE,
    rules: DecisionSettings = RULES,
) -> Choice:
    expected = ExpectedStage(num_requests=num_requests, num_prompts=-(-num_requests // 4), prompt_tokens=200)
    return first_layout(expected, profile, history_of(lengths), rules, max_tokens=max_tokens)


@examples(20)
@given(st.integers(1, 60), st.lists(st.integers(1, 4096), max_size=40))
def test_by_its_own_model_no_layout_that_is_kept_is_faster(num_requests: int, lengths: list[int]) -> None:
    made = first(num_requests, lengths)
    assert {option.degree for option in made.options} == {1, 2, 4, 8}
    assert all(option.pause_seconds == 0 for option in made.options)
    fastest = min(made.options, key=lambda option: (option.seconds, option.degree))
    assert made.gain_seconds >= -1e-9
    if made.degree != fastest.degree:
        assert made.gain_seconds <= RULES.enough.margin(fastest.seconds + made.gain_seconds)
    assert first(num_requests, lengths) == made


def test_a_lone_request_begins_wide_and_many_alike_do_not() -> None:
    assert first(1, []).degree == 8
    # 32 requests a rank, all of one length: one step of all ranks together takes longer than two of halves.
    assert first(256, [4000] * 256).degree < 8


def test_it_says_what_it_weighed() -> None:
    assert re.fullmatch(r"1 expected: degree 8 [\d.]+ s, static degree 8 [\d.]+ s", first(1, []).reason)


def test_a_sliver_is_not_worth_a_widening_later() -> None:
    keen = DecisionSettings(
        degrees=RULES.degrees, predictor=PredictorSettings(margin_seconds=0.0, margin_share=0.0)
    )
    shy = DecisionSettings(degrees=RULES.degrees, predictor=PredictorSettings(margin_share=0.5))
    assert first(256, [4000] * 256, rules=keen).degree < 8
    kept = first(256, [1000, 4000] * 128, rules=shy)
    assert kept.reason.endswith(f"static degree {kept.degree} {kept.gain_seconds + least(kept):.2f} s")


def least(choice: Choice) -> float:
    return min(option.seconds for option in choice.options)


def test_what_cannot_be_priced_begins_in_the_narrowest_layout() -> None:
    partial = dataclasses.replace(PROFILE, switch={})
    choice = first(4, [], profile=partial)
    assert choice.degree == 1
    assert choice.reason.startswith("cannot be priced: switch.")


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ((0, 0, 5), "num_prompts"),
        ((4, 5, 5), "num_prompts"),
        ((4, 0, 5), "num_prompts"),
        ((4, 2, -1), "prompt"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_be_is_refused(numbers: tuple[int, int, int], named: str) -> None:
    requests, prompts, tokens = numbers
    with pytest.raises(ValueError, match=f"^{named}"):
        ExpectedStage(num_requests=requests, num_prompts=prompts, prompt_tokens=tokens)


def test_the_samples_of_a_prompt_are_siblings() -> None:
    made = ExpectedStage(num_requests=7, num_prompts=2, prompt_tokens=5).requests()
    assert [request.prompt for request in made] == ["expected-000000"] * 4 + ["expected-000001"] * 3
    assert len({request.rid for request in made}) == 7
