import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.review.step_times import WINDOW, StepTimes, StepTimeTable

step_seconds = st.floats(1e-4, 10.0)
samples = st.lists(st.tuples(st.sampled_from((1, 2, 4)), st.integers(1, 40), step_seconds), max_size=60)


def measured(*steps: tuple[int, int, float]) -> StepTimes:
    step_times = StepTimes()
    for degree, batch, seconds in steps:
        step_times.add(degree, batch, seconds)
    return step_times


def test_nothing_is_known_of_a_degree_without_a_sample() -> None:
    step_times = measured((1, 4, 0.1), (4, 4, 0.2))
    assert step_times.seconds(2, 4) is None
    assert StepTimes().seconds(1, 1) is None


def test_the_estimate_is_linear_between_known_batches() -> None:
    step_times = measured((1, 2, 0.1), (1, 6, 0.3), (2, 4, 9.0))
    assert step_times.seconds(1, 3) == pytest.approx(0.15)
    assert step_times.seconds(1, 4) == pytest.approx(0.2)


def test_the_estimate_stops_at_the_last_known_batch() -> None:
    step_times = measured((1, 2, 0.1), (1, 6, 0.3), (2, 1, 9.0), (2, 90, 9.0))
    assert step_times.seconds(1, 1) == 0.1
    assert step_times.seconds(1, 100) == 0.3


def test_a_stalled_step_does_not_move_the_estimate() -> None:
    assert measured(*[(1, 4, 0.1)] * 9, (1, 4, 60.0)).seconds(1, 4) == 0.1


def test_old_samples_are_forgotten() -> None:
    step_times = measured(*[(1, 4, 0.1)] * 500)
    assert step_times.seconds(1, 4) == 0.1
    for _ in range(WINDOW):
        step_times.add(1, 4, 0.4)
    assert step_times.seconds(1, 4) == 0.4
    assert step_times.table().cells[0].num_samples == WINDOW


def test_a_table_is_not_changed_by_later_samples() -> None:
    step_times = measured((1, 4, 0.1))
    before = step_times.table()
    step_times.add(1, 8, 0.5)
    assert before.seconds(1, 8) == 0.1
    assert step_times.seconds(1, 8) == 0.5


@given(samples)
def test_at_a_known_batch_the_estimate_is_the_median(steps: list[tuple[int, int, float]]) -> None:
    step_times = measured(*steps)
    for degree, batch, _ in steps:
        cell = [seconds for d, b, seconds in steps if (d, b) == (degree, batch)]
        assert step_times.seconds(degree, batch) == statistics.median(cell)


@given(samples, st.integers(1, 50))
def test_an_estimate_lies_between_its_neighbours(steps: list[tuple[int, int, float]], batch: int) -> None:
    table = measured(*steps).table()
    known = [cell for cell in table.cells if cell.degree == 2]
    seconds = table.seconds(2, batch)
    if not known:
        assert seconds is None
        return
    below = [cell for cell in known if cell.batch <= batch][-1:]
    above = [cell for cell in known if cell.batch >= batch][:1]
    bounds = [cell.seconds for cell in below + above]
    assert seconds is not None
    assert min(bounds) * (1 - 1e-12) <= seconds <= max(bounds) * (1 + 1e-12)


@given(samples)
def test_a_table_survives_json(steps: list[tuple[int, int, float]]) -> None:
    table = measured(*steps).table()
    assert StepTimeTable.from_json(json.loads(json.dumps(table.as_json()))) == table
    assert StepTimeTable.from_json(reversed(table.as_json())) == table


@pytest.mark.parametrize(
    ("degree", "batch", "seconds", "problem"),
    [
        (0, 1, 0.1, "degree 0, batch 1: must be 1 or more"),
        (1, 0, 0.1, "degree 1, batch 0: must be 1 or more"),
        (1, 1, 0.0, "seconds: 0.0 is not a finite number above zero"),
        (1, 1, float("nan"), "seconds: nan is not a finite number above zero"),
        (1, 1, float("inf"), "seconds: inf is not a finite number above zero"),
    ],
)
def test_what_cannot_be_measured_is_refused(degree: int, batch: int, seconds: float, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        StepTimes().add(degree, batch, seconds)


def test_a_batch_below_one_has_no_step() -> None:
    with pytest.raises(ValueError, match="batch: 0 is not 1 or more"):
        measured((1, 1, 0.1)).seconds(1, 0)


def test_a_table_with_other_fields_is_refused() -> None:
    with pytest.raises(TypeError, match="num_samples"):
        StepTimeTable.from_json([{"degree": 1, "batch": 1, "seconds": 0.1}])
