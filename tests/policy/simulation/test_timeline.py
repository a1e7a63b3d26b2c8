"""Ends and boundaries are those of groups that are run step by step, for one plan as for many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Batches, Timeline

from ..linear_machine import LinearMachine

MACHINE = LinearMachine(token=0.1)
CLOCK = StepClock(MACHINE, footprint=4, max_batch=12, max_context=400)
ROW = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200), st.integers(0, 3)), min_size=1, max_size=12)


def batches(rows: list[list[tuple[int, int, int]]], at_seconds: float = 5.0) -> Batches:
    left, contexts, groups = np.moveaxis(np.array(rows, dtype=np.int64), 2, 0)
    return Batches(
        degree=1, left=left, contexts=contexts, groups=groups, at_seconds=np.full(len(rows), at_seconds)
    )


def stepwise(members: list[tuple[int, int]], at_seconds: float) -> list[float]:
    """When each step of a group ends, the step before the first included: `(left, context)` a member."""
    times = [at_seconds]
    for made in range(max((left for left, _ in members), default=0)):
        contexts = [context + made + 0.5 for left, context in members if left > made]
        seconds = MACHINE.steps(1).seconds(np.array([float(len(contexts))]), np.array([np.mean(contexts)]), 4)
        times.append(times[-1] + float(seconds[0]))
    return times


def steps_of(row: list[tuple[int, int, int]], at_seconds: float = 5.0) -> list[list[float]]:
    return [
        stepwise([(left, context) for left, context, of in row if of == group and left], at_seconds)
        for group in range(4)
    ]


@given(ROW)
def test_a_request_ends_when_its_group_has_made_its_steps(row: list[tuple[int, int, int]]) -> None:
    times = steps_of(row)
    expected = [times[group][left] if left else 0.0 for left, _, group in row]
    np.testing.assert_allclose(Timeline(batches([row]), CLOCK).ends_at[0], expected, rtol=1e-9)


@given(ROW, st.floats(0.0, 400.0))
def test_a_boundary_is_the_end_of_the_steps_under_way(row: list[tuple[int, int, int]], after: float) -> None:
    timeline = Timeline(batches([row]), CLOCK)
    at = 5.0 + after
    made, began = timeline.boundary(np.array([at]))
    assert began[0] >= at
    for (left, _, group), tokens in zip(row, made[0], strict=True):
        steps = sum(end < at - 1e-6 for end in steps_of(row)[group])
        # The end of a response closes its step; the last step before it is left for after the boundary.
        assert min(left, steps) - 2 <= tokens <= min(left, steps + 1)


@given(ROW)
def test_time_never_takes_tokens_back_and_ends_give_all(row: list[tuple[int, int, int]]) -> None:
    timeline = Timeline(batches([row]), CLOCK)
    last = float(timeline.ends_at.max(initial=5.0))
    moments = np.linspace(5.0, last + 1.0, 60)
    made = np.stack([timeline.boundary(np.array([at]))[0][0] for at in moments])
    assert (np.diff(made, axis=0) >= 0).all()
    assert made[-1].tolist() == [left for left, _, _ in row]
    together, began = timeline.boundary(moments)
    np.testing.assert_array_equal(together, made)
    assert (began >= moments).all()


@given(ROW, st.randoms(use_true_random=False))
def test_a_row_is_what_it_would_be_alone(row: list[tuple[int, int, int]], random: object) -> None:
    other = [(left // 2, context + 7, 3 - group) for left, context, group in row]
    random.shuffle(other)  # type: ignore[attr-defined]
    both = Timeline(batches([row, other]), CLOCK)
    made, began = both.boundary(np.array([30.0, 60.0]))
    for index, (alone, at) in enumerate(((row, 30.0), (other, 60.0))):
        single = Timeline(batches([alone]), CLOCK)
        np.testing.assert_allclose(both.ends_at[index], single.ends_at[0])
        alone_made, alone_began = single.boundary(np.array([at]))
        np.testing.assert_array_equal(made[index], alone_made[0])
        assert began[index] == pytest.approx(alone_began[0])


def test_a_step_clock_is_the_surface_along_the_context() -> None:
    batch, context = np.array([1, 3, 12]), np.array([0.0, 111.0, 400.0])
    expected = MACHINE.steps(2).seconds(batch.astype(float), context, 2)
    np.testing.assert_allclose(CLOCK.seconds(2, batch, context), expected)
    assert CLOCK.seconds(2, np.array([0]), np.array([100.0])).tolist() == [0.0]
