"""Why a posted report is refused: each reason, and its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ACCEPTED: Final = "accepted"
STATUSES: Final[Mapping[str, int]] = {
    ACCEPTED: 202,
    "malformed": 400,
    "unauthenticated": 401,
    "not_found": 404,
    "too_slow": 408,
    "stale_attempt": 409,
    "stale_sequence": 409,
    "no_length": 411,
    "too_large": 413,
    "too_often": 429,
    "failed": 500,
    "busy": 503,
    "not_ready": 503,
    "unavailable": 503,
}


class Refused(Exception):
    """The report is refused. reason: a key of STATUSES"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        assert reason in STATUSES, reason
        self.reason = reason
