"""The predictor's choice: never worse than staying by its own model, and with the words for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.arrays import FloatArray
from taper_policy.decision.pricing import Choice, PredictorSettings, choose
from taper_policy.decision.scenarios import Scenarios

from ..linear_machine import LinearMachine

KEEN = PredictorSettings(margin_seconds=0.0, margin_share=0.0, confidence=0.0)
DEGREES = (1, 2, 4)


def machine_of(
    *, fixed: float = 1.0, shared: float = 8.0, request: float = 1.0, pause: float = 3.0
) -> LinearMachine:
    return LinearMachine(
        fixed=fixed,
        shared=shared,
        request=request,
        token=0.0,
        pause=pause,
        pause_request=0.1,
        pause_token=0.001,
    )


MACHINES = st.builds(
    machine_of,
    fixed=st.floats(0.1, 5),
    shared=st.floats(0, 20),
    request=st.floats(0.01, 3),
    pause=st.floats(0, 200),
)
LIVE = st.lists(
    st.tuples(st.lists(st.integers(1, 200), min_size=3, max_size=3), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


def scenarios(live: list[tuple[list[int], int]], num_groups: int = 4) -> Scenarios:
    remaining = np.array([tokens for tokens, _ in live]).T
    groups = [group % num_groups for _, group in live]
    return Scenarios.of(remaining, [10] * len(live), groups, num_groups=num_groups)


def choice(
    live: list[tuple[list[int], int]],
    machine: LinearMachine,
    settings: PredictorSettings = KEEN,
    degree: int = 1,
) -> Choice:
    found = scenarios(live, 4 // degree)
    return choose(found, machine, settings, degree=degree, degrees=DEGREES, footprint=4)


def staying_for_good(live: list[tuple[list[int], int]], machine: LinearMachine, degree: int = 1) -> float:
    return float(scenarios(live, 4 // degree).seconds_as_grouped(machine.steps(degree)).sum(axis=1).mean())


@given(LIVE, MACHINES, st.sampled_from(DEGREES))
def test_never_slower_than_staying_for_good_by_its_own_model(
    live: list[tuple[list[int], int]], machine: LinearMachine, degree: int
) -> None:
    made = choice(live, machine, degree=degree)
    by_degree = {option.degree: option for option in made.options}
    bound = staying_for_good(live, machine, degree)
    assert by_degree[made.degree].seconds <= bound + 1e-9
    assert by_degree[degree].seconds <= bound + 1e-9
    if made.degree != degree:
        assert made.gain_seconds > 0


@given(LIVE, MACHINES)
def test_the_plan_to_widen_later_is_the_best_of_all_moments(
    live: list[tuple[list[int], int]], machine: LinearMachine
) -> None:
    """With two layouts every plan can be tried: never, or at one of the milestones."""
    found = scenarios(live, 4)
    made = choose(found, machine, KEEN, degree=1, degrees=(1, 4), footprint=4)
    narrow = found.seconds_as_grouped(machine.steps(1)).mean(axis=0)
    wide = found.seconds_if_even(machine.steps(4), num_groups=1).mean(axis=0)
    counts, contexts = found.counts.astype(float), found.live_context_tokens.mean(axis=0)
    pauses = machine.pause_seconds(1, 4, counts, contexts) + mean_waits(machine, counts, contexts)
    plans = [narrow[:at].sum() + pauses[at] + wide[at:].sum() for at in range(len(narrow))]
    staying, switching = made.options
    assert staying.seconds == pytest.approx(min([narrow.sum(), *plans[1:]]))
    assert switching.seconds == pytest.approx(plans[0])


def mean_waits(machine: LinearMachine, counts: FloatArray, contexts: FloatArray) -> FloatArray:
    """Of four groups: k busy ones are apart by (k - 1) / (k + 1) of a step."""
    waits = [
        (min(4, count) - 1) / (min(4, count) + 1) * step if count else 0.0
        for count, step in zip(
            counts.tolist(),
            machine.steps(1)
            .seconds(np.maximum(1, np.ceil(counts / 4)), contexts / np.maximum(1, counts), 4)
            .tolist(),
            strict=True,
        )
    ]
    return np.array(waits)


@given(LIVE, MACHINES, st.floats(0, 50))
def test_the_wait_for_the_boundary_is_the_one_at_hand_for_a_switch_now(
    live: list[tuple[list[int], int]], machine: LinearMachine, wait: float
) -> None:
    found = scenarios(live, 4)
    known, unknown = (
        choose(found, machine, KEEN, degree=1, degrees=(1, 4), footprint=4, boundary_seconds=seconds)
        for seconds in (wait, None)
    )
    mean = mean_waits(machine, found.counts.astype(float), found.live_context_tokens.mean(axis=0))[0]
    assert known.options[1].pause_seconds - unknown.options[1].pause_seconds == pytest.approx(wait - mean)
    assert known.options[1].seconds - unknown.options[1].seconds == pytest.approx(wait - mean)
    assert known.options[0].seconds == unknown.options[0].seconds


@given(LIVE, MACHINES, st.permutations(range(12)))
def test_equal_inputs_give_equal_choices_in_any_order(
    live: list[tuple[list[int], int]], machine: LinearMachine, order: list[int]
) -> None:
    shuffled = [live[index] for index in order if index < len(live)]
    one, other = choice(live, machine), choice(shuffled, machine)
    assert one.degree == other.degree
    for a, b in itertools.zip_longest(one.options, other.options):
        assert a.seconds == pytest.approx(b.seconds)


def test_a_lone_long_response_is_worth_a_switch_and_a_short_one_is_not() -> None:
    long, short = (choice([([tokens] * 3, 0)], machine_of(pause=10)) for tokens in (500, 1))
    assert (long.degree, short.degree) == (4, 1)
    assert "1 live: degree 4" in long.reason and "gained, in 100% of the scenarios" in long.reason
    assert "does not exceed the margin" in short.reason


def test_a_gain_below_the_margin_or_in_few_scenarios_is_left() -> None:
    live = [([60] * 3, 0)]
    assert choice(live, machine_of()).degree == 4
    assert choice(live, machine_of(), PredictorSettings(margin_seconds=1e4)).degree == 1
    unsure = [([1, 1, 400], 0)]
    assert choice(unsure, machine_of(pause=20)).degree == 4
    careful = choice(unsure, machine_of(pause=20), PredictorSettings(confidence=0.5))
    assert careful.degree == 1
    assert "only 33% of the scenarios gain" in careful.reason


def test_it_waits_for_the_moment_that_is_best() -> None:
    """While all groups are busy, one wide group is slower; it pays when few are left."""
    live = [([20] * 3, index) for index in range(8)] + [([300] * 3, 0)]
    made = choice(live, machine_of(shared=4, request=2))
    assert made.degree == 1
    assert made.options[0].next_degree == 4
    assert made.options[0].next_at_requests == 1
    assert "waits for degree 4 at 1 live" in made.reason


def test_a_margin_does_not_put_a_switch_off_again_and_again() -> None:
    """One step later a switch is nearly as good; the margin is over staying for good."""
    live = [([3] * 3, 0)] + [([300] * 3, index) for index in range(1, 8)]
    made = choice(live, machine_of(shared=40, request=0.1), PredictorSettings(margin_share=0.1))
    assert made.degree == 4
    staying = next(option for option in made.options if option.degree == 1)
    assert staying.next_at_requests == 7
    assert staying.seconds < made.options[-1].seconds * 1.1


def test_a_pause_is_part_of_the_price() -> None:
    made = choice([([100] * 3, 0)], machine_of(pause=5))
    assert made.options[2].pause_seconds == pytest.approx(5 + 0.1 + 0.01)
    assert made.options[0].pause_seconds == 0


def test_with_one_layout_there_is_nothing_to_choose() -> None:
    found = scenarios([([5] * 3, 0)], 1)
    made = choose(found, machine_of(), KEEN, degree=4, degrees=(4,), footprint=4)
    assert (made.degree, made.reason) == (4, "there is no other layout")
