"""Why a job failed, from the end of its log, which KubeRay copies into the RayJob's message.

Without a termination message (`taper_api.status.termination_message`) the end of the log is used.

Invariant (asserted by `tests/operator/reconcile/test_failure_cause.py`): no log raises, and the result is
bounded.
"""

from __future__ import annotations

from typing import NamedTuple

from taper_api.status.termination_message import INVALID_JOB, MAX_MESSAGE_CHARACTERS, termination_message_in


class FailureCause(NamedTuple):
    """reason: in one word, empty if the job gave none
    is_final: another attempt would end the same way
    """

    reason: str
    message: str
    is_final: bool = False


def failure_cause(log: str) -> FailureCause:
    """The termination message of a failed job, or else the end of its log."""
    message = termination_message_in(log)
    if message is None:
        return FailureCause("", log[-MAX_MESSAGE_CHARACTERS:])
    return FailureCause(message.reason, message.text[:MAX_MESSAGE_CHARACTERS], message.reason == INVALID_JOB)
