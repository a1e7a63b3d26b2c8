"""`benchmarks/operator.py` has the name of a module that every other script of its folder needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_it_hides_nothing_of_the_standard_library() -> None:
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import operator, collections, argparse; "
    code += "print(operator.itemgetter(0)('ab'), operator.__add__(1, 2), operator.concat is not None)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["a", "3", "True"]
