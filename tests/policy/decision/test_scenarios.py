"""Blocks of an scenarios price what a simulation step by step would take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.arrays import FloatArray
from taper_policy.decision.scenarios import FINE, Scenarios, milestones

LIVE = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 50), st.integers(0, 2)), min_size=1, max_size=FINE
)


class Affine:
    """Larger batches and longer contexts take longer; so does a busier neighbourhood."""

    def seconds(self, batch: FloatArray, context_tokens: FloatArray, busy_groups: int) -> FloatArray:
        seconds: FloatArray = 5.0 + 2.0 * batch + 0.01 * batch * context_tokens + 0.1 * busy_groups
        return seconds


def scenarios(live: list[tuple[int, int, int]], num_groups: int = 3) -> Scenarios:
    remaining, contexts, groups = zip(*live, strict=True)
    return Scenarios.of(np.array([remaining]), contexts, groups, num_groups=num_groups)


def simulated_steps(live: list[tuple[int, int]], busy: int) -> list[tuple[int, float]]:
    """One group, a step at a time: live requests and seconds. Contexts count as in the middle of the step."""
    steps = []
    for made in range(max((tokens for tokens, _ in live), default=0)):
        contexts = [context + made + 0.5 for tokens, context in live if tokens > made]
        seconds = Affine().seconds(np.array([float(len(contexts))]), np.array([np.mean(contexts)]), busy)
        steps.append((len(contexts), float(seconds[0])))
    return steps


def simulated(live: list[tuple[int, int]], busy: int) -> float:
    return sum(seconds for _, seconds in simulated_steps(live, busy))


@given(LIVE)
def test_as_grouped_it_is_the_slowest_groups_simulation(live: list[tuple[int, int, int]]) -> None:
    groups = [[(tokens, context) for tokens, context, group in live if group == index] for index in range(3)]
    expected = max(simulated(group, busy=3) for group in groups)
    assert scenarios(live).seconds_as_grouped(Affine()).sum() == pytest.approx(expected)


@given(LIVE)
def test_in_one_group_it_is_the_simulation_of_all(live: list[tuple[int, int, int]]) -> None:
    expected = simulated([(tokens, context) for tokens, context, _ in live], busy=1)
    assert scenarios(live).seconds_if_even(Affine(), num_groups=1).sum() == pytest.approx(expected)


@given(LIVE)
def test_each_block_has_the_steps_between_two_live_counts(live: list[tuple[int, int, int]]) -> None:
    steps = simulated_steps([(tokens, context) for tokens, context, _ in live], busy=1)
    found = scenarios(live)
    expected = [sum(s for count, s in steps if count == at) for at in found.counts[:-1]]
    np.testing.assert_allclose(found.seconds_if_even(Affine(), num_groups=1)[0], expected)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 50))
def test_spread_evenly_a_group_has_its_share(num_live: int, tokens: int, context: int) -> None:
    even = scenarios([(tokens, context, 0)] * min(num_live, FINE)).seconds_if_even(Affine(), num_groups=2)
    share = -(-min(num_live, FINE) // 2)
    assert even.sum() == pytest.approx(simulated([(tokens, context)] * share, busy=2))


@given(LIVE, st.randoms(use_true_random=False))
def test_blind_to_the_order_of_requests_and_the_names_of_groups(
    live: list[tuple[int, int, int]], random: object
) -> None:
    shuffled = [(tokens, context, 2 - group) for tokens, context, group in live]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = scenarios(live), scenarios(shuffled)
    np.testing.assert_allclose(
        one.seconds_as_grouped(Affine()).sum(), other.seconds_as_grouped(Affine()).sum()
    )
    np.testing.assert_allclose(one.live_context_tokens, other.live_context_tokens)


@given(LIVE, st.data())
def test_more_to_make_never_takes_less(live: list[tuple[int, int, int]], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(live) - 1))
    tokens, context, group = live[index]
    more = [*live[:index], (tokens + data.draw(st.integers(1, 30)), context, group), *live[index + 1 :]]
    for price in (
        lambda o: o.seconds_as_grouped(Affine()),
        lambda o: o.seconds_if_even(Affine(), num_groups=1),
    ):
        assert price(scenarios(more)).sum() >= price(scenarios(live)).sum() - 1e-9


def test_merged_groups_are_as_if_dealt_to_fewer() -> None:
    remaining = np.array([[5, 9, 2, 14, 30], [40, 2, 7, 7, 1]])
    contexts = [3, 7, 20, 1, 6]
    four, two = (
        Scenarios.of(remaining, contexts, [index % groups for index in range(5)], num_groups=groups)
        for groups in (4, 2)
    )
    np.testing.assert_allclose(four.merged(2).seconds_as_grouped(Affine()), two.seconds_as_grouped(Affine()))


def test_scenarios_do_not_mix() -> None:
    contexts, groups = [3, 7], [0, 1]
    both = Scenarios.of(np.array([[5, 9], [40, 2]]), contexts, groups, num_groups=2)
    for index, remaining in enumerate([[5, 9], [40, 2]]):
        alone = Scenarios.of(np.array([remaining]), contexts, groups, num_groups=2)
        one = both.seconds_as_grouped(Affine())[index].sum()
        assert one == pytest.approx(alone.seconds_as_grouped(Affine()).sum())


def test_many_requests_are_cut_coarsely_and_priced_closely() -> None:
    random = np.random.default_rng(7)
    remaining = random.lognormal(5, 1.2, (1, 400)).astype(np.int64) + 1
    live = [(int(tokens), 20, index % 3) for index, tokens in enumerate(remaining[0])]
    counts = milestones(400)
    assert len(counts) < 80
    assert list(counts[-FINE - 1 :]) == list(range(FINE, -1, -1))
    expected = max(simulated([(t, c) for t, c, g in live if g == index], busy=3) for index in range(3))
    assert scenarios(live).seconds_as_grouped(Affine()).sum() == pytest.approx(expected, rel=0.002)


def test_contexts_at_the_milestones_are_those_of_the_live() -> None:
    found = scenarios([(5, 10, 0), (2, 100, 1)])
    assert found.live_context_tokens.tolist() == [[110.0, 12.0, 0.0]]


@pytest.mark.parametrize(
    ("remaining", "groups", "named"), [([[0, 3]], [0, 0], "remaining"), ([[1, 3]], [0, 2], "groups")]
)
def test_bad_input_is_named(remaining: list[list[int]], groups: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        Scenarios.of(np.array(remaining), [1, 1], groups, num_groups=2)
