"""What is learned of steps that take longer than the profile says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.correction import (
    BOUND,
    CorrectedPrices,
    Correction,
    TimedStep,
    bin_of,
    learned,
    middle,
)

from ..linear_machine import LinearMachine

MACHINE = LinearMachine()
PLACES = st.tuples(st.sampled_from((1, 2, 4)), st.integers(1, 300), st.integers(1, 4000))
BATCHES = np.arange(1.0, 513.0)


def steps_of(places: list[tuple[int, int, int]], ratio: float) -> list[TimedStep]:
    """Steps that take `ratio` times what the machine says."""
    return [
        TimedStep(degree, batch, context, ratio * MACHINE.steps(degree).seconds(batch, context, 1))  # type: ignore[arg-type]
        for degree, batch, context in places
    ]


@given(st.lists(PLACES, max_size=40))
def test_steps_as_expected_change_nothing(places: list[tuple[int, int, int]]) -> None:
    found = learned(Correction(), steps_of(places, 1.0), MACHINE, 4)
    for degree in (1, 2, 4):
        assert found.of(degree, BATCHES) == pytest.approx(1.0)


@given(st.lists(PLACES, min_size=1, max_size=10), st.floats(1 / BOUND, BOUND))
def test_a_constant_ratio_is_learned_in_the_end(places: list[tuple[int, int, int]], ratio: float) -> None:
    found = Correction()
    for _ in range(400):
        found = learned(found, steps_of(places, ratio), MACHINE, 4)
    for degree in (1, 2, 4):
        assert found.of(degree, BATCHES) == pytest.approx(ratio, rel=1e-3)


@given(st.lists(st.tuples(PLACES, st.floats(0.01, 100.0)), min_size=1, max_size=40))
def test_factors_are_bounded_and_lie_between_their_neighbours(
    made: list[tuple[tuple[int, int, int], float]],
) -> None:
    found = Correction()
    for place, ratio in made:
        found = learned(found, steps_of([place] * 50, ratio), MACHINE, 4)
    for degree, bins in found.factors.items():
        factors = found.of(degree, BATCHES)
        assert min(bins.values()) - 1e-9 <= factors.min() <= factors.max() <= max(bins.values()) + 1e-9
        assert 1 / BOUND - 1e-9 <= factors.min() <= factors.max() <= BOUND + 1e-9
        for one, factor in bins.items():
            assert float(found.of(degree, np.array(2.0 ** middle(one)))) == pytest.approx(factor)


def test_a_bin_holds_a_factor_of_two() -> None:
    assert [bin_of(batch) for batch in (1, 2, 3, 4, 7, 8, 255, 256)] == [0, 1, 1, 2, 2, 3, 7, 8]


def test_few_steps_weigh_less_than_many_and_old_stages_less_than_the_last() -> None:
    few = learned(Correction(), steps_of([(1, 4, 100)], 1.5), MACHINE, 4)
    many = learned(Correction(), steps_of([(1, 4, 100)] * 500, 1.5), MACHINE, 4)
    assert 1.0 < few.factors[1][2] < 1.1 < 1.45 < many.factors[1][2] < 1.5
    later = learned(many, steps_of([(1, 4, 100)] * 5000, 1.2), MACHINE, 4)
    assert later.factors[1][2] == pytest.approx((many.factors[1][2] * 1.2) ** 0.5, rel=0.01)


def test_one_long_step_among_many_is_one_among_many() -> None:
    steps = [*steps_of([(1, 4, 100)] * 999, 1.0), *steps_of([(1, 4, 100)], 50.0)]
    assert learned(Correction(), steps, MACHINE, 4).factors[1][2] == pytest.approx(1.049, abs=0.002)


def test_a_degree_that_was_never_seen_follows_the_others() -> None:
    found = learned(Correction(), steps_of([(1, 4, 100)] * 5000, 1.5), MACHINE, 4)
    assert found.of(2, BATCHES) == pytest.approx(1.5, rel=0.01)
    seen = learned(found, steps_of([(2, 4, 100)] * 5000, 1.0), MACHINE, 4)
    assert seen.of(2, BATCHES) == pytest.approx(1.0)
    assert seen.of(4, BATCHES) == pytest.approx(1.5**0.5, rel=0.01)


def test_prices_are_corrected_and_pauses_are_not() -> None:
    prices = CorrectedPrices(MACHINE, Correction({1: {0: 1.2}, 2: {0: 0.8}}))
    one = np.array([3.0])
    for degree, factor in ((1, 1.2), (2, 0.8)):
        plain = MACHINE.steps(degree).seconds(one, one, 1)
        assert prices.steps(degree).seconds(one, one, 1) == pytest.approx(factor * plain)
    assert prices.pause_seconds(1, 2, one, one) == MACHINE.pause_seconds(1, 2, one, one)


def test_it_is_read_as_it_was_written() -> None:
    found = Correction({1: {0: 1.2345678901234567, 5: 0.9}, 2: {}})
    assert Correction.from_json(json.loads(json.dumps(found.factors))) == found
