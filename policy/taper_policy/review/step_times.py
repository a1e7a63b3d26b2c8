"""Measured seconds of a decode step, by degree and batch: a running table.

Each cell (degree, batch) keeps its last `WINDOW` samples; its estimate is their median,
which a step that waited for something else (a prefill, another process) does not move.
Between the known batches of a degree the estimate is linear. Beyond them it is that of
the nearest known batch: a trend is never carried past what was measured. Of a degree
without a sample nothing is known, and None says so.

Invariants (asserted by `tests/policy/review/test_step_times.py`):
- at a known batch the estimate is the median of the window;
- every estimate lies between those of the known batches next to it;
- a table read back from JSON equals the one written.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

WINDOW: Final = 64


class DecodeSeconds(Protocol):
    """What can tell the seconds of a decode step of a group."""

    def seconds(self, degree: int, batch: int) -> float | None:
        """Seconds of one decode step of a group of `degree` ranks with `batch` requests; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeCell:
    """The estimate of one (degree, batch) and the number of samples in its window."""

    degree: int
    batch: int
    seconds: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class StepTimeTable:
    """The estimates at one moment, sorted by degree, then batch; a value, and JSON-ready."""

    cells: tuple[StepTimeCell, ...]

    def seconds(self, degree: int, batch: int) -> float | None:
        """Seconds of one decode step; None for a degree without a cell. `ValueError` for a batch below 1."""
        if batch < 1:
            raise ValueError(f"batch: {batch} is not 1 or more")
        above = bisect_left(self.cells, (degree, batch), key=_place)
        near = [cell for cell in self.cells[max(0, above - 1) : above + 1] if cell.degree == degree]
        if not near:
            return None
        lower, upper = near[0], near[-1]
        if batch >= upper.batch:
            return upper.seconds
        if batch <= lower.batch:
            return lower.seconds
        share = (batch - lower.batch) / (upper.batch - lower.batch)
        return lower.seconds + share * (upper.seconds - lower.seconds)

    def as_json(self) -> list[dict[str, Any]]:
        """A list of `{degree, batch, seconds, num_samples}`."""
        return [asdict(cell) for cell in self.cells]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> StepTimeTable:
        """The table that `as_json` wrote. Raises `TypeError` for missing and unknown fields."""
        return cls(tuple(sorted((StepTimeCell(**row) for row in rows), key=_place)))


class StepTimes:
    """The running table: takes samples while serving, gives estimates at any time. Not thread-safe."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, int], deque[float]] = {}
        self._table: StepTimeTable | None = None

    def add(self, degree: int, batch: int, seconds: float) -> None:
        """Take one decode step of a group. `ValueError` for what cannot have been measured."""
        if degree < 1 or batch < 1:
            raise ValueError(f"degree {degree}, batch {batch}: must be 1 or more")
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"seconds: {seconds} is not a finite number above zero")
        self._samples.setdefault((degree, batch), deque(maxlen=WINDOW)).append(seconds)
        self._table = None

    def table(self) -> StepTimeTable:
        """The estimates as they stand."""
        if self._table is None:
            self._table = StepTimeTable(
                tuple(
                    StepTimeCell(
                        degree=degree,
                        batch=batch,
                        seconds=statistics.median(samples),
                        num_samples=len(samples),
                    )
                    for (degree, batch), samples in sorted(self._samples.items())
                )
            )
        return self._table

    def seconds(self, degree: int, batch: int) -> float | None:
        """Seconds of one decode step, as `StepTimeTable.seconds` gives them."""
        return self.table().seconds(degree, batch)


def _place(cell: StepTimeCell) -> tuple[int, int]:
    return cell.degree, cell.batch
