"""When the progress of a running batch is reported again."""

from __future__ import annotations

import itertools

from taper_rollout.events import StageProgress
from taper_rollout.replica.progress_throttle import LEAST_SECONDS, MOST_SECONDS, ProgressThrottle


def sample(at: float, *running: int, degree: int = 1, finished: int = 0) -> tuple[StageProgress, float]:
    progress = StageProgress(
        replica=0, step=1, running=sum(running), finished=finished, degree=degree, num_ranks=2
    )
    return progress, at


def test_a_batch_that_stays_as_it_is_is_reported_once() -> None:
    throttle = ProgressThrottle()
    assert [at for at in range(1000) if throttle.is_due(*sample(at / 10, 32, 32))] == [0]


def test_a_batch_that_hardly_changes_is_reported_seldom() -> None:
    """A request ends and another one begins, all the time."""
    throttle = ProgressThrottle()
    reported = [at for at in range(100) if throttle.is_due(*sample(at / 10, 32, 31 + at % 2))]
    assert len(reported) == 5
    assert all(later - earlier >= 10 * MOST_SECONDS for earlier, later in itertools.pairwise(reported))


def test_one_that_ended_and_was_followed_by_another_is_reported() -> None:
    throttle = ProgressThrottle()
    assert throttle.is_due(*sample(0.0, 32))
    assert throttle.is_due(*sample(5.0, 32, finished=1))


def test_one_that_tapers_off_is_reported_often_but_not_with_each_look() -> None:
    throttle = ProgressThrottle()
    reported = [at / 100 for at in range(300) if throttle.is_due(*sample(at / 100, 300 - at))]
    # Every tenth of 300 is 0.3 s, of 200 only 0.2 s.
    assert 8 <= len(reported) <= 12
    assert all(later - earlier >= LEAST_SECONDS for earlier, later in itertools.pairwise(reported))


def test_a_small_change_and_a_new_layout() -> None:
    throttle = ProgressThrottle()
    assert throttle.is_due(*sample(0.0, 32, 32))
    assert not throttle.is_due(*sample(0.5, 32, 30))
    assert throttle.is_due(*sample(0.6, 62, degree=2))
    assert not throttle.is_due(*sample(0.7, 1, degree=2))
    assert throttle.is_due(*sample(0.9, 1, degree=2))


def test_the_last_requests_count_one_by_one() -> None:
    throttle = ProgressThrottle()
    assert [throttle.is_due(*sample(0.3 * left, 9 - left)) for left in range(9)] == [True] * 9


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    throttle = ProgressThrottle()
    assert throttle.is_due(*sample(1000.0, 4))
    assert throttle.is_due(*sample(10.0, 3))
