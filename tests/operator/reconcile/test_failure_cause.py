"""Why a job failed, in its own words where it had any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.status.termination_message import TerminationMessage
from taper_operator.reconcile.verdict import failure_cause

from ...api.failure_lines import LINES

# As Ray words it.
RAY = "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n"


@pytest.mark.parametrize(("line", "words"), LINES.items())
def test_the_termination_message_is_the_cause(line: str, words: TerminationMessage) -> None:
    cause = failure_cause(f"{RAY}taper: something\n{line}")
    assert (cause.reason, cause.message) == (words.reason, words.text)
    assert cause.is_final == (words.reason == "InvalidJob")


def test_field_and_remedy_are_reported() -> None:
    line = next(line for line in LINES if "remedy" in line)
    assert failure_cause(line).message == "spec.rollout.degrees[1]: 3 is not a power of two; use 1, 2, 4 or 8"


@pytest.mark.parametrize("reported", ["", "{", "[]", "1", '{"message": 1}', '{"message": ""}', "[" * 100_000])
def test_without_a_termination_message_the_end_of_the_log_is_used(reported: str) -> None:
    cause = failure_cause(f"TAPER_ERROR {reported}\nKeyError: 'x'")
    assert cause.message.endswith("KeyError: 'x'")
    assert not cause.is_final


@given(st.text() | st.text().map(lambda text: f"TAPER_ERROR {text}"))
def test_no_log_raises(log: str) -> None:
    assert len(failure_cause(log * 3).message) <= 2_000
