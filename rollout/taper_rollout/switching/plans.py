"""The KV plan of a switch: where each live request goes, and which head slices move.

Strategy. Widening sends a request to the group that encloses its own. Narrowing
spreads the requests of a group over its sub-groups: longest first, each to the
sub-group with the fewest KV tokens so far (LPT, so the largest sub-group exceeds the
smallest by at most the largest request). At the old degree each head of a request is
held by exactly one rank of its group, so the source of every slice is determined; as
shards are nested, a rank of the old group keeps what it needs and already has.

Which requests take their KV along is `taper_policy.profile.kv_choice`'s to say; the others are
prefilled again where they go to, and nothing of theirs moves.

The plan is a pure function of the *set* of requests: ranks that list the requests in
different orders make equal plans. They compare `digest()` before the first byte moves.

Invariants (asserted by `tests/rollout/switching/test_plans.py`):
- a target group contains, or is contained in, the request's old group;
- for every request that migrates, each rank of the target group gets each head of its shard
  exactly once, from a rank of the old group that holds that head;
- where the target rank itself holds a slice, it is the source.

Ranks, groups and shards are those of `taper_policy.layout`.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from taper_policy import layout
from taper_policy.profile.kv_choice import HeldKv, KvMode, recomputed_by


class KvSlice(NamedTuple):
    """`num_tokens` KV tokens of a request, `head_count` of the model's global KV heads, from rank to rank.

    Where source and target are one rank nothing crosses ranks, but the slice gets a new place.
    """

    request: str
    source_rank: int
    target_rank: int
    head_start: int
    head_count: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchPlan:
    """What `plan_switch` decided.

    `requests` are sorted by id, each with its group at the old degree; those not yet prefilled have
    no tokens. `recomputed` names those that have KV and leave it behind.
    `slices` are in the one canonical order, that of `requests`, then target rank, then
    head; requests that do not migrate have none. `held` are the requests that have KV, with
    the groups that they go to, in canonical order.
    """

    footprint: int
    from_degree: int
    to_degree: int
    num_kv_heads: int
    requests: tuple[HeldKv, ...]
    target_group: Mapping[str, int]
    held: tuple[HeldKv, ...]
    recomputed: frozenset[str]
    slices: tuple[KvSlice, ...]

    @property
    def migrated(self) -> tuple[HeldKv, ...]:
        """The requests that take their KV along, in canonical order."""
        return tuple(
            request for request in self.requests if request.num_tokens and request.id not in self.recomputed
        )

    @property
    def moved_tokens_heads(self) -> int:
        """KV tokens x heads that cross ranks; times layers x 2 x head dim x element bytes = moved bytes."""
        return sum(kv.num_tokens * kv.head_count for kv in self.slices if kv.source_rank != kv.target_rank)

    def digest(self) -> str:
        """A hash of the whole plan: equal across processes and machines for equal plans, in hex."""
        shape = (self.footprint, self.from_degree, self.to_degree, self.num_kv_heads)
        requests = [
            (request.id, request.group, request.num_tokens, self.target_group[request.id])
            for request in self.requests
        ]
        slices = [tuple(kv) for kv in self.slices]
        content = (shape, requests, sorted(self.recomputed), slices)
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def plan_switch(
    requests: Iterable[HeldKv],
    footprint: int,
    from_degree: int,
    to_degree: int,
    num_kv_heads: int,
    kv: KvMode = "migrate",
) -> SwitchPlan:
    """Plan the switch of a whole footprint between two uniform layouts, in O(requests x footprint).

    `kv`: one way for all requests, or what both cost, by which each has its own.

    Raises `ValueError` for equal degrees, degrees that do not fit the footprint or the
    KV heads, a duplicate request id, a group out of range and a negative token count.
    """
    ordered = tuple(sorted(requests, key=lambda request: request.id))
    _check_degrees(footprint, from_degree, to_degree, num_kv_heads)
    _check_requests(ordered, footprint // from_degree)
    if to_degree > from_degree:
        ratio = to_degree // from_degree
        target_group = {request.id: request.group // ratio for request in ordered}
    else:
        target_group = _spread(ordered, from_degree // to_degree)
    held = tuple(
        request._replace(group=target_group[request.id]) for request in ordered if request.num_tokens
    )
    recomputed = recomputed_by(held, kv)
    slices = [
        KvSlice(request.id, *route, request.num_tokens)
        for request in ordered
        if request.num_tokens and request.id not in recomputed
        for route in _routes(request.group, target_group[request.id], from_degree, to_degree, num_kv_heads)
    ]
    return SwitchPlan(
        footprint=footprint,
        from_degree=from_degree,
        to_degree=to_degree,
        num_kv_heads=num_kv_heads,
        requests=ordered,
        target_group=target_group,
        held=held,
        recomputed=recomputed,
        slices=tuple(slices),
    )


class _Route(NamedTuple):
    source_rank: int
    target_rank: int
    head_start: int
    head_count: int


@functools.cache
def _routes(
    source_group: int, target_group: int, from_degree: int, to_degree: int, num_kv_heads: int
) -> tuple[_Route, ...]:
    """The slices from an old to a new group: the same for all requests that go that way."""
    holders = layout.ranks_by_shard(source_group, from_degree)
    source_heads = num_kv_heads // from_degree
    head_count = num_kv_heads // max(from_degree, to_degree)
    return tuple(
        _Route(holders[head_start // source_heads], target_rank, head_start, head_count)
        for target_rank in layout.ranks_of(target_group, to_degree)
        for head_start in layout.shard_rows(target_rank, to_degree, num_kv_heads)[::head_count]
    )


def _spread(requests: Sequence[HeldKv], ratio: int) -> dict[str, int]:
    """The target groups of a narrowing that splits each group into `ratio` sub-groups (LPT, ties by id)."""
    members: defaultdict[int, list[HeldKv]] = defaultdict(list)
    for request in requests:
        members[request.group].append(request)
    target_group: dict[str, int] = {}
    for group, mates in members.items():
        # (tokens, requests, sub-group): requests without KV are spread by their number.
        loads = [(0, 0, group * ratio + part) for part in range(ratio)]
        for request in sorted(mates, key=lambda mate: (-mate.num_tokens, mate.id)):
            num_tokens, num_requests, target = loads[0]
            heapq.heapreplace(loads, (num_tokens + request.num_tokens, num_requests + 1, target))
            target_group[request.id] = target
    return target_group


def _check_degrees(footprint: int, from_degree: int, to_degree: int, num_kv_heads: int) -> None:
    if from_degree == to_degree:
        raise ValueError(f"to_degree: {to_degree} is the degree already, so there is nothing to switch")
    for name, degree in (("from_degree", from_degree), ("to_degree", to_degree)):
        layout.check_degree(footprint, degree, name=name)
        if num_kv_heads < 1 or num_kv_heads % degree:
            raise ValueError(f"{name}: {degree} does not divide the model's {num_kv_heads} KV heads")


def _check_requests(ordered: Sequence[HeldKv], num_groups: int) -> None:
    for before, after in itertools.pairwise(ordered):
        if before.id == after.id:
            raise ValueError(f"requests[{after.id!r}]: listed twice")
    for request in ordered:
        if not 0 <= request.group < num_groups:
            raise ValueError(
                f"requests[{request.id!r}].group: {request.group} is not one of the {num_groups} groups"
            )
        if request.num_tokens < 0:
            raise ValueError(f"requests[{request.id!r}].num_tokens: {request.num_tokens} is negative")
        if request.num_tokens and request.num_tokens < request.prompt_tokens:
            raise ValueError(
                f"requests[{request.id!r}].prompt_tokens: {request.prompt_tokens} is above the "
                f"{request.num_tokens} tokens that it has"
            )
