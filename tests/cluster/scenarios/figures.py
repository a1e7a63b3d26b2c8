"""What scenarios measure, each with its limit; printed after all tests."""

from __future__ import annotations

import threading
from typing import NamedTuple

_LOCK = threading.Lock()
_FIGURES: dict[tuple[str, float], list[float]] = {}


class Figure(NamedTuple):
    """name: what was measured, and its unit  at_most: what it may be  worst, number: of what was found"""

    name: str
    at_most: float
    worst: float
    number: int


def check(name: str, found: float, at_most: float) -> None:
    """Keep a figure; raises `AssertionError` where it is more than it may be."""
    with _LOCK:
        _FIGURES.setdefault((name, at_most), []).append(found)
    assert found <= at_most, f"{name}: {found:.4g}, at most {at_most:g}"


def figures() -> list[Figure]:
    """All that were kept, the worst of each."""
    with _LOCK:
        return [Figure(name, most, max(found), len(found)) for (name, most), found in _FIGURES.items()]
