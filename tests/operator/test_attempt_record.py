"""What attempts count as."""

from __future__ import annotations

import pytest

from taper_api.progress import Progress
from taper_api.rlhfjob_status import RLHFJobStatus
from taper_operator.attempt_record import (
    active_attempt,
    backoff_seconds,
    with_end,
    with_new_attempt,
    with_news,
)
from taper_operator.verdict import Verdict

from .job_objects import NOW

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


def test_the_waits() -> None:
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
def test_what_counts(ends: list[Verdict], counts: tuple[int, int, int]) -> None:
    status = after(*ends)
    assert (status.failures, status.disruptions, status.disruptions_in_a_row) == counts


def test_a_late_report_of_an_earlier_attempt_is_not_the_next_ones() -> None:
    status = with_new_attempt(after(DISRUPTED), "a-2", NOW)
    attempt = active_attempt(status)
    assert attempt is not None
    facts = {"sequence": 1, "time": "2026-11-21T12:00:00Z", "step": 7, "steps": 9, "last_checkpoint_step": 7}
    for number, step in ((1, None), (2, 7)):
        told = with_news(status, attempt, None, (), Progress(attempt=number, **facts), NOW)
        assert told.attempts[-1].last_checkpoint_step == step
