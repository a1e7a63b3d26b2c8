"""How many examples of a property a run tries."""

from __future__ import annotations

from hypothesis import settings

# The profile of `make test`, which `tests/conftest.py` registers.
WHOLE = settings.get_profile("taper")


def examples(number: int) -> settings:
    """`number` of them, and fewer by the same factor in every property under the profile `quick`."""
    return settings(max_examples=max(5, number * settings().max_examples // WHOLE.max_examples))
