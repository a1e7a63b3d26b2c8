"""Layouts of a footprint: which ranks form a group, and which shard each of them holds.

A footprint of N ranks (N a power of two) at degree d is cut into N/d groups of
neighbouring ranks, `[k*d, (k+1)*d)`. Only uniform layouts are described here.

Shards are *nested*: what a rank holds at degree 2d lies inside what it holds at
degree d, so that a wide stack's weights are views of the narrow one's. That fixes
the order of the shards: at degree d, rank r holds shard bit-reverse(r mod d).

Invariants (asserted by `tests/policy/test_layout.py`):
- the groups of a degree partition the footprint;
- within a group every shard is held exactly once;
- `shard_rows(rank, 2 * degree, n)` lies inside `shard_rows(rank, degree, n)`;
- shard 0 of a group is held by its first rank, its leader.

Everything that is not a power of two, or out of range, is a `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence


def shard_of(rank: int, degree: int) -> int:
    """The shard index in `[0, degree)` that `rank` holds at `degree`: bit-reverse of `rank mod degree`."""
    _require_power_of_two("degree", degree)
    _require_natural("rank", rank)
    shard, place = 0, rank % degree
    for _ in range(degree.bit_length() - 1):
        shard = shard << 1 | place & 1
        place >>= 1
    return shard


def shard_rows(rank: int, degree: int, num_rows: int) -> range:
    """The rows (or heads) of a dimension of `num_rows` that `rank` holds at `degree`.

    Raises `ValueError` where `degree` does not divide `num_rows`.
    """
    _require_natural("num_rows", num_rows)
    shard = shard_of(rank, degree)
    if num_rows % degree:
        raise ValueError(f"num_rows: {num_rows} is not divisible by degree {degree}")
    size = num_rows // degree
    return range(shard * size, (shard + 1) * size)


def group_of(rank: int, degree: int) -> int:
    """The index of the group that `rank` belongs to at `degree`."""
    _require_power_of_two("degree", degree)
    _require_natural("rank", rank)
    return rank // degree


def ranks_of(group: int, degree: int) -> tuple[int, ...]:
    """The ranks of a group in natural order; the first is its leader."""
    _require_power_of_two("degree", degree)
    _require_natural("group", group)
    return tuple(range(group * degree, (group + 1) * degree))


def ranks_by_shard(group: int, degree: int) -> tuple[int, ...]:
    """The ranks of a group ordered by the shard they hold: element s holds shard s.

    Gathers along the sharded dimension follow this order.
    """
    first = ranks_of(group, degree)[0]
    # Bit reversal is its own inverse: the place that holds shard s is bit-reverse(s).
    return tuple(first + shard_of(shard, degree) for shard in range(degree))


def groups(footprint: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """The uniform layout of `footprint` ranks at `degree`: element g is `ranks_of(g, degree)`."""
    check_degree(footprint, degree)
    return tuple(ranks_of(group, degree) for group in range(footprint // degree))


def leaders(footprint: int, degree: int) -> tuple[int, ...]:
    """The leader of each group: the rank that holds shard 0, which is the group's first rank."""
    return tuple(ranks[0] for ranks in groups(footprint, degree))


def uniform_degrees(footprint: int, degrees: Sequence[int] | None = None) -> tuple[int, ...]:
    """The degrees of a replica, checked: ascending powers of two that end at the footprint.

    The first is the base layout's. Without `degrees`: all powers of two up to the footprint.
    """
    _require_power_of_two("footprint", footprint)
    if degrees is None:
        return tuple(1 << bits for bits in range(footprint.bit_length()))
    for index, degree in enumerate(degrees):
        _require_power_of_two(f"degrees[{index}]", degree)
        if index and degree <= degrees[index - 1]:
            raise ValueError(f"degrees[{index}]: {degree} does not ascend after {degrees[index - 1]}")
    if not degrees or degrees[-1] != footprint:
        raise ValueError(f"degrees: {list(degrees)} must end at the footprint, {footprint}")
    return tuple(degrees)


def check_degree(footprint: int, degree: int, *, name: str = "degree") -> None:
    """Raise `ValueError`, with `name`, unless `degree` cuts `footprint` into a uniform layout."""
    _require_power_of_two("footprint", footprint)
    _require_power_of_two(name, degree)
    if degree > footprint:
        raise ValueError(f"{name}: {degree} is larger than the footprint, {footprint}")


def _require_power_of_two(name: str, number: int) -> None:
    if number < 1 or number & (number - 1):
        raise ValueError(f"{name}: {number} is not a power of two")


def _require_natural(name: str, number: int) -> None:
    if number < 0:
        raise ValueError(f"{name}: {number} is negative")
