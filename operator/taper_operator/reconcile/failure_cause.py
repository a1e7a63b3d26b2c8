"""Why a job failed, from the end of its log, which Ray hands on.

Without last words of the job's own (`taper_api.status.termination_message`) the end of the log has to do.

Invariant (asserted by `tests/operator/reconcile/test_failure_cause.py`): no log raises, and what is told
stays in bounds.
"""

from __future__ import annotations

from typing import NamedTuple

from taper_api.status.termination_message import INVALID_JOB, MAX_MESSAGE_CHARACTERS, termination_message_in


class FailureCause(NamedTuple):
    """reason: in one word, empty if the job said none
    is_final: another attempt would end the same way
    """

    reason: str
    message: str
    is_final: bool = False


def failure_cause(log: str) -> FailureCause:
    """What a failed job has said of why, or the end of its log."""
    words = termination_message_in(log)
    if words is None:
        return FailureCause("", log[-MAX_MESSAGE_CHARACTERS:])
    return FailureCause(words.reason, words.text[:MAX_MESSAGE_CHARACTERS], words.reason == INVALID_JOB)
