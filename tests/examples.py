"""How many examples of a property a run tries."""

from __future__ import annotations

from hypothesis import settings

# What `settings()` has where no profile says otherwise.
USUAL = 100


def examples(number: int) -> settings:
    """`number` of them, and fewer by the same factor in every property under the profile `quick`."""
    return settings(max_examples=max(5, number * settings().max_examples // USUAL))
