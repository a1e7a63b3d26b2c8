"""The last words of a job that failed: `TAPER_ERROR {json}` at the end of its log, which Ray hands on.

Without them the end of the log has to do.

Invariant (asserted by `tests/operator/test_last_words.py`): no log raises, and what it says stays in bounds.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from taper_operator.json_field import text_at

_MARK = "TAPER_ERROR "
_MAX_MESSAGE_CHARACTERS = 2_000


class LastWords(NamedTuple):
    """reason: in one word, empty if it said none"""

    reason: str
    message: str


def last_words(log: str) -> LastWords:
    """What a failed job has said of why, or the end of its log."""
    for line in reversed(log.splitlines()):
        _, mark, told = line.partition(_MARK)
        if not mark:
            continue
        try:
            content = json.loads(told)
        except (ValueError, RecursionError):
            continue
        if text_at(content, "message"):
            message = text_at(content, "message")
            return LastWords(text_at(content, "reason"), message[:_MAX_MESSAGE_CHARACTERS])
    return LastWords("", log[-_MAX_MESSAGE_CHARACTERS:])
