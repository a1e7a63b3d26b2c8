"""When a running batch is told of again."""

from __future__ import annotations

import itertools

from taper_rollout.replica.events import StageProgress
from taper_rollout.replica.progress_throttle import LEAST_SECONDS, MOST_SECONDS, Glances


def sample(at: float, *running: int, degree: int = 1, finished: int = 0) -> tuple[StageProgress, float]:
    glance = StageProgress(
        replica=0, step=1, running=sum(running), finished=finished, degree=degree, num_ranks=2
    )
    return glance, at


def test_a_batch_that_stays_as_it_is_is_told_of_once() -> None:
    glances = Glances()
    assert [at for at in range(1000) if glances.is_due(*sample(at / 10, 32, 32))] == [0]


def test_a_batch_that_hardly_changes_is_told_of_seldom() -> None:
    """A request ends and another one begins, all the time."""
    glances = Glances()
    told = [at for at in range(100) if glances.is_due(*sample(at / 10, 32, 31 + at % 2))]
    assert len(told) == 5
    assert all(later - earlier >= 10 * MOST_SECONDS for earlier, later in itertools.pairwise(told))


def test_one_that_ended_and_was_followed_by_another_is_told_of() -> None:
    glances = Glances()
    assert glances.is_due(*sample(0.0, 32))
    assert glances.is_due(*sample(5.0, 32, finished=1))


def test_one_that_tapers_off_is_told_of_often_but_not_with_each_look() -> None:
    glances = Glances()
    told = [at / 100 for at in range(300) if glances.is_due(*sample(at / 100, 300 - at))]
    # Every tenth of 300 is 0.3 s, of 200 only 0.2 s.
    assert 8 <= len(told) <= 12
    assert all(later - earlier >= LEAST_SECONDS for earlier, later in itertools.pairwise(told))


def test_a_small_change_and_a_new_layout() -> None:
    glances = Glances()
    assert glances.is_due(*sample(0.0, 32, 32))
    assert not glances.is_due(*sample(0.5, 32, 30))
    assert glances.is_due(*sample(0.6, 62, degree=2))
    assert not glances.is_due(*sample(0.7, 1, degree=2))
    assert glances.is_due(*sample(0.9, 1, degree=2))


def test_the_last_requests_count_one_by_one() -> None:
    glances = Glances()
    assert [glances.is_due(*sample(0.3 * left, 9 - left)) for left in range(9)] == [True] * 9


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    glances = Glances()
    assert glances.is_due(*sample(1000.0, 4))
    assert glances.is_due(*sample(10.0, 3))
