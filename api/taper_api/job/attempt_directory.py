"""The directory that an attempt saves to: the operator names it, `taper run` finds its siblings by the name.

Its number fences it: an attempt writes into its own directory only, and reads those of earlier ones.

Invariant (asserted by `tests/api/test_attempt_directory.py`): what is named so is read back, nothing else is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_ATTEMPTS = 9999
_NAME = re.compile(r"attempt-(?P<uid>[A-Za-z0-9][-A-Za-z0-9]*)-(?P<number>[0-9]{4})")


class AttemptDirectory(NamedTuple):
    """Whose a directory is. uid: of the job, so that a later job of the same name has others"""

    uid: str
    number: int

    @property
    def name(self) -> str:
        """The directory's name, without the folder that all attempts share."""
        assert 1 <= self.number <= MAX_ATTEMPTS, self.number
        return f"attempt-{self.uid}-{self.number:04d}"


def attempt_directory_of(name: str) -> AttemptDirectory | None:
    """Whose the directory of that name is; None for one that is no attempt's."""
    found = _NAME.fullmatch(name)
    if found is None or int(found["number"]) < 1:
        return None
    return AttemptDirectory(found["uid"], int(found["number"]))
