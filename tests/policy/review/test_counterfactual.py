from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.review.counterfactual import staying_seconds, switched_seconds
from taper_policy.review.step_times import DecodeSeconds, StepTimeCell, StepTimes, StepTimeTable

layouts = st.lists(st.lists(st.integers(0, 80), max_size=12), max_size=5)


@st.composite
def rising_tables(draw: st.DrawFn) -> StepTimeTable:
    """Step times of degree 1 that never fall with the batch, as those of real ranks."""
    batches = draw(st.sets(st.integers(1, 16), min_size=1, max_size=6))
    seconds = sorted(draw(st.floats(1e-3, 1.0)) for _ in batches)
    return StepTimeTable(
        tuple(
            StepTimeCell(degree=1, batch=batch, seconds=cost, num_samples=1)
            for batch, cost in zip(sorted(batches), seconds, strict=True)
        )
    )


def simulated_seconds(remaining_tokens: list[list[int]], step_times: DecodeSeconds) -> float:
    """The same by brute force: every decode step of every group."""
    ends = [0.0]
    for group in remaining_tokens:
        live, clock = [tokens for tokens in group if tokens], 0.0
        while live:
            clock += step_times.seconds(1, len(live)) or 0.0
            live = [tokens - 1 for tokens in live if tokens > 1]
        ends.append(clock)
    return max(ends)


def test_a_stage_ends_with_its_slowest_group() -> None:
    step_times = StepTimes()
    for batch, seconds in ((1, 1.0), (2, 1.5), (3, 2.0)):
        step_times.add(1, batch, seconds)
    # Group 0: two steps of three requests, one of two, seven of one. Group 1: four of one.
    assert staying_seconds([[10, 2, 3], [4]], step_times, 1) == pytest.approx(2 * 2.0 + 1.5 + 7 * 1.0)


def test_nothing_left_takes_no_time() -> None:
    assert staying_seconds([[], [0, 0]], StepTimes(), 1) == 0.0


def test_an_unmeasured_degree_has_no_answer() -> None:
    step_times = StepTimes()
    step_times.add(1, 1, 0.1)
    assert staying_seconds([[3]], step_times, 2) is None
    assert switched_seconds([[3]], step_times, 2, pause_seconds=0.5) is None


def test_a_switch_costs_its_pause() -> None:
    step_times = StepTimes()
    step_times.add(2, 3, 0.25)
    assert switched_seconds([[4, 4, 4]], step_times, 2, pause_seconds=0.5) == pytest.approx(1.5)


def test_negative_remaining_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="remaining_tokens: -1 is negative"):
        staying_seconds([[3, -1]], StepTimes(), 1)


@given(layouts, rising_tables())
def test_equal_to_a_simulation_step_by_step(remaining: list[list[int]], table: StepTimeTable) -> None:
    assert staying_seconds(remaining, table, 1) == pytest.approx(simulated_seconds(remaining, table))


@given(layouts, rising_tables(), st.data())
def test_more_tokens_never_take_less_time(
    remaining: list[list[int]], table: StepTimeTable, data: st.DataObject
) -> None:
    more = [[tokens + data.draw(st.integers(0, 20)) for tokens in group] for group in remaining]
    before, after = staying_seconds(remaining, table, 1), staying_seconds(more, table, 1)
    assert before is not None
    assert after is not None
    assert after >= before * (1 - 1e-12)


@given(layouts, rising_tables(), st.randoms(use_true_random=False))
def test_the_order_of_groups_and_requests_is_of_no_matter(
    remaining: list[list[int]], table: StepTimeTable, random: Random
) -> None:
    shuffled = [random.sample(group, len(group)) for group in remaining]
    random.shuffle(shuffled)
    assert staying_seconds(shuffled, table, 1) == staying_seconds(remaining, table, 1)
