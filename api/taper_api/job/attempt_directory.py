"""The directory that an attempt saves to. The operator names it; `taper run` finds those of earlier attempts.

An attempt writes only into its own directory, and reads those of earlier attempts.

Invariant (asserted by `tests/api/test_attempt_directory.py`): each name is read back, other names are not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_ATTEMPTS = 9999
_NAME = re.compile(r"attempt-(?P<uid>[A-Za-z0-9][-A-Za-z0-9]*)-(?P<number>[0-9]{4})")


class AttemptDirectory(NamedTuple):
    """The attempt that a directory belongs to.

    uid: of the job, so that a later job of the same name has other directories
    """

    uid: str
    number: int

    @property
    def name(self) -> str:
        """The directory's name, without the folder that all attempts share."""
        assert 1 <= self.number <= MAX_ATTEMPTS, self.number
        return f"attempt-{self.uid}-{self.number:04d}"


def attempt_directory_of(name: str) -> AttemptDirectory | None:
    """The attempt that a directory belongs to by its name; None if it belongs to none."""
    found = _NAME.fullmatch(name)
    if found is None or int(found["number"]) < 1:
        return None
    return AttemptDirectory(found["uid"], int(found["number"]))
