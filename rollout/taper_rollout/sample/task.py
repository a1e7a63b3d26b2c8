"""The sample's task: "write N even digits", with a log-normal N.

Most prompts ask for few digits and some for very many, so correct answers have a long tail, as those of
an untrained model do.
"""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The distribution of N: log-normal, limited to 1 to `longest_digits`.

    Its 99th percentile is `exp(2.33 * sigma)` times its median: 7.2 times at a `sigma` of 0.85.
    """

    num_prompts: int
    median_digits: int
    sigma: float
    longest_digits: int

    def draw(self, seed: int) -> list[int]:
        """N of each prompt. Equal seeds draw equal numbers."""
        source = random.Random(seed)
        drawn = (
            source.lognormvariate(math.log(self.median_digits), self.sigma) for _ in range(self.num_prompts)
        )
        return [max(1, min(self.longest_digits, round(length))) for length in drawn]


def write_prompts(path: Path, task: Task, *, seed: int) -> None:
    """Write a parquet file with the columns `prompt` (chat messages) and `answer` (the number N as text)."""
    import pyarrow
    import pyarrow.parquet

    lengths = task.draw(seed)
    prompts = [[{"role": "user", "content": f"write {length} even digits"}] for length in lengths]
    table = pyarrow.table({"prompt": prompts, "answer": [str(length) for length in lengths]})
    pyarrow.parquet.write_table(table, path)
