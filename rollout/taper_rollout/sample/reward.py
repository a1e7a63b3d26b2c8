"""The sample's reward: does the answer consist of as many even digits as the prompt asks for?

This file imports nothing of Taper, so that it can be copied next to a job and changed.
"""

from __future__ import annotations

from typing import Any

EVEN_DIGITS = frozenset("02468")


def even_digits(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """Share of even digits in the answer, times how close its length is to the requested one.

    1.0 for exactly `ground_truth` even digits and nothing else. Closeness is the shorter of the two
    lengths divided by the longer. A random answer gets about 0.03, and every further even digit counts,
    so that an untrained model can start to learn. Too long is as bad as too short.
    """
    length, wanted = len(solution_str), int(ground_truth)
    if length == 0:
        return 0.0
    num_even = sum(character in EVEN_DIGITS for character in solution_str)
    return num_even / length * min(length, wanted) / max(length, wanted)
