"""Removes secrets from the error of a run, which is copied into logs, messages and the job's status.

Errors of VeRL, a reward or a download may quote what they were given. Removed are the values of environment
variables whose names look like secrets or that the job takes from a Secret, and the user part of URLs.

Invariant (asserted by `tests/rollout/job/test_redaction.py`): no value of such a variable is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

HIDDEN = "[hidden]"
# Shorter values occur in ordinary words by accident.
_MIN_SECRET_CHARACTERS = 6
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH", re.IGNORECASE)
_USER_OF_ADDRESS = re.compile(r"(?<=://)[^\s/@]+(?=@)")


def redacted(text: str, environment: Mapping[str, str], names: Collection[str] = ()) -> str:
    """The text without secrets. names: further variables whose values are secret"""
    values = [
        value
        for name, value in environment.items()
        if len(value) >= _MIN_SECRET_CHARACTERS and (name in names or _SECRET_NAME.search(name))
    ]
    # The longest first: one may begin with another.
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _USER_OF_ADDRESS.sub(HIDDEN, text)
