"""The reward of `learning.py`: simple enough to be learned completely in 30 steps."""

from __future__ import annotations

from typing import Any

EVEN_DIGITS = frozenset("02468")


def even_share(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """Share of even digits in the answer: about 0.02 for a random one, 1.0 for nothing else."""
    if not solution_str:
        return 0.0
    return sum(character in EVEN_DIGITS for character in solution_str) / len(solution_str)
