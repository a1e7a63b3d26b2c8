"""Seconds of a decode step of one degree, over batch and context, from a grid of measured cells.

A *line* is the cells of one (busy groups, batch), along ascending contexts. Between
neighbouring contexts of a line, and then between neighbouring batches, the estimate is
linear: kernels change with the batch (a GEMM jumps between 3 and 4), so nothing smoother
would be true. Between measured numbers of busy groups it is linear, beyond them that of
the nearest.

Beyond the grid the last slope is carried on along that axis, but never to less than the
nearest value.

Long contexts of large batches do not fit the KV memory, so lines may get shorter as the
batch grows; what is missing there is extrapolated along the line. Any other hole is an
error, as is a degree without a cell: `check_cells` says which.

Invariants (asserted by `tests/policy/profile/test_step_surface.py`):
- at a measured cell the estimate is the cell's;
- between measured cells every estimate lies within its neighbours';
- beyond the grid it is never below the nearest value;
- what many points get at once, each gets alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import FloatArray

# Neighbouring cells never are: a unit or a digit is wrong.
MAX_APART: Final = 300.0
IndexArray = npt.NDArray[np.intp]
_MOST: Final = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCell:
    """One measured point: seconds of a decode step of a group of `degree` ranks.

    context_tokens: mean over the batch's requests
    busy_groups: groups of the layout that decode at the same time, this one included
    half_width_seconds: of the 95 % interval of the median
    num_samples: 0 where the cell is derived, not measured
    """

    degree: int
    batch: int
    context_tokens: int
    busy_groups: int
    seconds: float
    half_width_seconds: float
    num_samples: int

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where it lies; cells are in ascending order of this."""
        return self.degree, self.busy_groups, self.batch, self.context_tokens


class StepSurface:
    """The estimates of one degree; immutable. Build it from checked cells of that degree, in order."""

    def __init__(self, cells: Iterable[StepCell], *, num_groups: int) -> None:
        slabs = {busy: list(slab) for busy, slab in groupby(cells, lambda cell: cell.busy_groups)}
        every = [cell for slab in slabs.values() for cell in slab]
        self._num_groups = num_groups
        self._batches = np.array(sorted({cell.batch for cell in every}), dtype=np.float64)
        self._contexts = np.array(sorted({cell.context_tokens for cell in every}), dtype=np.float64)
        busy = np.array(sorted(slabs), dtype=np.float64)
        tables = np.stack([self._slab(slabs[int(groups)]) for groups in busy])
        # Flat, [busy groups, batches, contexts], so that a lookup takes with one index.
        self._table = _along(busy, tables, np.arange(1.0, num_groups + 1.0), flat=True).ravel()

    def seconds(
        self, batch: npt.ArrayLike, context_tokens: npt.ArrayLike, busy_groups: npt.ArrayLike = 1
    ) -> FloatArray:
        """Seconds of a step of groups with `batch` requests of `context_tokens` mean tokens, elementwise.

        The arguments are broadcast; fractions are allowed. A batch of 0 takes nothing.
        Raises `ValueError` for negative numbers and more busy groups than the layout has.
        """
        batches, contexts, start = self._checked(batch, context_tokens, busy_groups)
        across, along = _places(self._batches, batches), _places(self._contexts, contexts)
        lower, upper = (
            _carried(along.share, self._table.take(row + along.below), self._table.take(row + along.above))
            for row in (start + index * len(self._contexts) for index in (across.below, across.above))
        )
        return np.where(batches > 0, _carried(across.share, lower, upper), 0.0)

    def _checked(
        self, batch: npt.ArrayLike, context_tokens: npt.ArrayLike, busy_groups: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray, IndexArray]:
        """Batches, contexts, and where in the flat table the numbers of busy groups begin; broadcast."""
        batches = np.asarray(batch, dtype=np.float64)
        contexts = np.asarray(context_tokens, dtype=np.float64)
        busy = np.asarray(busy_groups)
        _require_range("batch", batches, 0.0, _MOST)
        _require_range("context_tokens", contexts, 0.0, _MOST)
        _require_range("busy_groups", busy, 1, self._num_groups)
        start = (busy.astype(np.intp) - 1) * (len(self._batches) * len(self._contexts))
        if batches.shape != contexts.shape or start.shape:
            batches, contexts, start = np.broadcast_arrays(batches, contexts, start)
        return batches, contexts, start

    def _slab(self, cells: Sequence[StepCell]) -> FloatArray:
        """The table `[batches, contexts]` of one number of busy groups."""
        lines, batches = [], []
        for batch, line in groupby(cells, lambda cell: cell.batch):
            measured = list(line)
            batches.append(batch)
            seconds = np.array([cell.seconds for cell in measured])
            contexts = np.array([cell.context_tokens for cell in measured], dtype=np.float64)
            lines.append(_along(contexts, seconds, self._contexts))
        return _along(np.array(batches, dtype=np.float64), np.stack(lines), self._batches)


class _Places(NamedTuple):
    """Points on an ascending grid: the indices around each; the share of the way from `below` to
    `above`, which leaves [0, 1] beyond the grid."""

    below: IndexArray
    above: IndexArray
    share: FloatArray


def _places(grid: FloatArray, points: FloatArray) -> _Places:
    last = len(grid) - 1
    # The first and the last point do not matter: beyond them the outermost span is carried on.
    below = np.searchsorted(grid[1:-1], points, side="right")
    # A grid of one point has no slope: whatever its share, both ends are the same.
    spans = np.diff(grid) if last else np.ones(1)
    share = (points - grid.take(below)) / spans.take(below)
    return _Places(below, np.minimum(below + 1, last), share)


def _carried(share: FloatArray, below: FloatArray, above: FloatArray) -> FloatArray:
    """Linear, beyond [0, 1] as well, but there never less than the nearest end."""
    slope = above - below
    carried: FloatArray = np.maximum(below + np.clip(share, 0.0, 1.0) * slope, below + share * slope)
    return carried


def _along(grid: FloatArray, table: FloatArray, points: FloatArray, *, flat: bool = False) -> FloatArray:
    """A table whose first axis lies on `grid`, brought to `points` along that axis.

    `flat`: beyond the grid the nearest value holds, without a slope.
    """
    places = _places(grid, points)
    share = places.share.reshape((-1,) + (1,) * (table.ndim - 1))
    share = np.clip(share, 0.0, 1.0) if flat else share
    return _carried(share, table.take(places.below, axis=0), table.take(places.above, axis=0))


def _require_range(name: str, numbers: FloatArray | IndexArray, least: float, most: float) -> None:
    # Written so that NaN is refused.
    if numbers.size and not (numbers.min() >= least and numbers.max() <= most):
        raise ValueError(f"{name}: [{numbers.min()}, {numbers.max()}] is not within [{least}, {most}]")


def check_cells(cells: Sequence[StepCell], *, footprint: int, degrees: Sequence[int], derived: bool) -> None:
    """Raise `ValueError`, which begins with `cells`, unless they make a surface for each degree.

    `derived`: cells without samples are allowed.
    """
    for index, cell in enumerate(cells):
        _check_cell(cell, f"cells[{index}]", footprint, degrees, derived=derived)
        if index and cell.place <= cells[index - 1].place:
            _raise_order(cells[index - 1], cell, f"cells[{index}]")
    for degree in degrees:
        slabs = {
            busy: list(slab)
            for busy, slab in groupby(
                (cell for cell in cells if cell.degree == degree), lambda cell: cell.busy_groups
            )
        }
        if 1 not in slabs:
            raise ValueError(f"cells: none of degree {degree} with busy_groups 1")
        for slab in slabs.values():
            _check_lines([list(line) for _, line in groupby(slab, lambda cell: cell.batch)])
    _check_apart(cells)


def _check_cell(cell: StepCell, path: str, footprint: int, degrees: Sequence[int], *, derived: bool) -> None:
    if cell.degree not in degrees:
        raise ValueError(f"{path}.degree: {cell.degree} is not among the degrees {list(degrees)}")
    if not 1 <= cell.busy_groups <= footprint // cell.degree:
        raise ValueError(
            f"{path}.busy_groups: {cell.busy_groups} is not within [1, {footprint // cell.degree}]"
        )
    for name, least in (("batch", 1), ("context_tokens", 1), ("num_samples", 0 if derived else 1)):
        if getattr(cell, name) < least:
            raise ValueError(f"{path}.{name}: {getattr(cell, name)} is not {least} or more")
    if not (math.isfinite(cell.seconds) and cell.seconds > 0):
        raise ValueError(f"{path}.seconds: {cell.seconds} is not a finite number above zero")
    if not (math.isfinite(cell.half_width_seconds) and cell.half_width_seconds >= 0):
        raise ValueError(f"{path}.half_width_seconds: {cell.half_width_seconds} is not 0 or more, and finite")


def _raise_order(before: StepCell, cell: StepCell, path: str) -> None:
    names = ("degree", "busy_groups", "batch", "context_tokens")
    for name, old, new in zip(names, before.place, cell.place, strict=True):
        if new < old:
            raise ValueError(f"{path}.{name}: {new} does not ascend after {old}")
    raise ValueError(f"{path}: is there twice: {dict(zip(names, cell.place, strict=True))}")


def _check_lines(lines: Sequence[Sequence[StepCell]]) -> None:
    """Each line must begin as the one before does: only its longest contexts may be missing."""
    for shorter, longer in pairwise(lines):
        old = [cell.context_tokens for cell in shorter]
        new = [cell.context_tokens for cell in longer]
        if new == old[: len(new)]:
            continue
        at = next(
            (index for index, both in enumerate(zip(old, new, strict=False)) if both[0] != both[1]), len(old)
        )
        lacks_new = at < len(old) and old[at] < new[at]
        cell, missing = (longer[0], old[at]) if lacks_new else (shorter[0], new[at])
        raise ValueError(
            f"cells: missing: degree {cell.degree}, busy_groups {cell.busy_groups}, batch {cell.batch}, "
            f"context_tokens {missing}"
        )


def _check_apart(cells: Sequence[StepCell]) -> None:
    """Neighbours along an axis, and the least of each degree, must be of one order of magnitude or so."""
    before: dict[tuple[str, int, int, int], int] = {}
    for index, cell in enumerate(cells):
        degree, busy, batch, context = cell.place
        axes = (
            ("context", degree, busy, batch),
            ("batch", degree, busy, context),
            ("busy", degree, batch, context),
        )
        for axis in axes:
            _require_near(cells, index, before.get(axis, index))
            before[axis] = index
    least: dict[int, int] = {}
    for index, cell in enumerate(cells):
        if cell.degree not in least or cell.seconds < cells[least[cell.degree]].seconds:
            least[cell.degree] = index
    for first, second in pairwise(least.values()):
        _require_near(cells, second, first)


def _require_near(cells: Sequence[StepCell], index: int, other: int) -> None:
    one, two = cells[index].seconds, cells[other].seconds
    if max(one, two) >= MAX_APART * min(one, two):
        raise ValueError(
            f"cells[{index}].seconds: {one} is {max(one, two) / min(one, two):.0f} times apart from "
            f"cells[{other}].seconds, {two}"
        )
