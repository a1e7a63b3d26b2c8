"""What attempts count as."""

from __future__ import annotations

import pytest

from taper_api.status.progress import Progress
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.reconcile.attempt_history import (
    active_attempt,
    backoff_seconds,
    with_end,
    with_new_attempt,
    with_observed_state,
)
from taper_operator.reconcile.verdict import Verdict

from ..job_objects import NOW

FAILED = Verdict(outcome="Failed", reason="AppFailed", message="x")
DISRUPTED = Verdict(outcome="Disrupted", reason="NodeLost")


def after(*ends: Verdict) -> RLHFJobStatus:
    status = RLHFJobStatus()
    for number, end in enumerate(ends, start=1):
        status = with_new_attempt(status, f"a-{number}", NOW)
        attempt = active_attempt(status)
        assert attempt is not None
        status = with_end(status, attempt, end, NOW)
    return status


def test_the_backoff_between_attempts() -> None:
    assert [backoff_seconds(times) for times in (1, 2, 3, 6, 7, 10_000)] == [10, 20, 40, 320, 360, 360]


def test_one_at_a_time() -> None:
    status = with_new_attempt(RLHFJobStatus(), "a-1", NOW)
    with pytest.raises(AssertionError):
        with_new_attempt(status, "a-2", NOW)


def test_ten_are_kept() -> None:
    status = after(*[FAILED] * 12)
    assert [attempt.number for attempt in status.attempts] == list(range(3, 13))
    assert (status.attempt, status.failures) == (12, 12)


@pytest.mark.parametrize(
    ("ends", "counts"),
    [
        ([FAILED], (1, 0, 0)),
        ([DISRUPTED] * 4, (0, 4, 4)),
        ([DISRUPTED] * 5, (1, 4, 0)),
        ([DISRUPTED, FAILED, DISRUPTED], (1, 2, 2)),
        ([Verdict(outcome="Suspended", reason="Suspended")] * 3, (0, 0, 0)),
        ([Verdict(outcome="Stopped", reason="DeadlineExceeded")], (0, 0, 0)),
    ],
)
def test_which_outcomes_count(ends: list[Verdict], counts: tuple[int, int, int]) -> None:
    status = after(*ends)
    assert (status.failures, status.disruptions, status.disruptions_in_a_row) == counts


def test_a_late_report_of_an_earlier_attempt_is_not_the_next_ones() -> None:
    status = with_new_attempt(after(DISRUPTED), "a-2", NOW)
    attempt = active_attempt(status)
    assert attempt is not None
    facts = {"sequence": 1, "time": "2026-11-21T12:00:00Z", "step": 7, "steps": 9, "last_checkpoint_step": 7}
    for number, step in ((1, None), (2, 7)):
        reported = with_observed_state(status, attempt, None, (), Progress(attempt=number, **facts), NOW)
        assert reported.attempts[-1].last_checkpoint_step == step


def reported(status: RLHFJobStatus, **steps: int) -> RLHFJobStatus:
    """The status after its attempt has reported steps."""
    attempt = active_attempt(status)
    assert attempt is not None
    facts = {"attempt": attempt.number, "sequence": 1, "time": "2026-11-21T12:00:00Z", "step": 0, "steps": 9}
    return with_observed_state(status, attempt, None, (), Progress.model_validate(facts | steps), NOW)


def disrupted(status: RLHFJobStatus) -> RLHFJobStatus:
    """The status in which its attempt was disrupted, and the next has begun."""
    attempt = active_attempt(status)
    assert attempt is not None
    return with_new_attempt(with_end(status, attempt, DISRUPTED, NOW), f"a-{status.attempt + 1}", NOW)


def test_an_attempt_reports_the_step_it_resumed_from() -> None:
    status = disrupted(reported(with_new_attempt(RLHFJobStatus(), "a-1", NOW), last_checkpoint_step=6))
    assert status.attempts[-1].first_step == 6, "as far as is known"
    for step in (4, 0):
        assert reported(status, first_step=step).attempts[-1].first_step == step
    assert reported(status).attempts[-1].first_step == 6


@pytest.mark.parametrize(
    ("first", "last", "row"),
    [
        # The first attempt came to 6, and was disrupted.
        (6, 7, 1),
        (6, 6, 2),
        # It had saved step 8, but could no longer report it.
        (8, 8, 1),
        # That one was lost, and the attempt made up for a part of it.
        (4, 5, 2),
        (0, 6, 2),
        (0, 7, 1),
    ],
)
def test_a_checkpoint_is_new_if_no_attempt_reached_its_step(first: int, last: int, row: int) -> None:
    status = disrupted(reported(with_new_attempt(RLHFJobStatus(), "a-1", NOW), last_checkpoint_step=6))
    status = disrupted(reported(status, first_step=first, last_checkpoint_step=last))
    assert status.disruptions_in_a_row == row
