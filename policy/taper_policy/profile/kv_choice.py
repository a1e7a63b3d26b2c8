"""Which requests of a switch take their KV along and which are prefilled again: by cost, per request.

Migrating costs something once, for each request (slots, cache entry, copies) and for each
token. Recomputing costs something for each token that is prefilled; the groups of the new
layout do so at the same time, so the pause is that of the one with the most tokens. What
every switch costs in either case is not part of the choice.

Shared prompts. SGLang (0.5.23) looks up cached prefixes before it forms a prefill batch, so
recomputed siblings in one batch share nothing with each other. But one whose sibling
migrated to the same group finds the prompt in the cache and computes only what follows. So
the sibling with the most tokens is recomputed last, at the price of all their prompts.

Strategy. In each group the requests stand in the order of the tokens that recomputing them
adds. A choice recomputes in every group those that come first, as far as a limit of tokens
that is the same for all groups; every limit that makes a difference is tried. With equal
seconds the choice that migrates more is taken.

Invariants (asserted by `tests/policy/profile/test_kv_choice.py`):
- of the pause it costs no more than migrating all or recomputing all, nor than any other
  set of that form; with one group and no shared prompt, than any other set at all;
- without shared prompts, where a request is recomputed so is every shorter one of its group;
- the order in which the requests are listed does not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCosts:
    """What migrating and recomputing cost in a switch between two degrees, beyond what both do.

    exchange_seconds: once, if anything migrates
    migrated_request_seconds, migrated_token_seconds: of each that migrates, over all groups
    recomputed_token_seconds: of a token that one group prefills
    """

    exchange_seconds: float
    migrated_request_seconds: float
    migrated_token_seconds: float
    recomputed_token_seconds: float

    def migrated_seconds(self, num_tokens: int) -> float:
        """What migrating a request of so many KV tokens takes."""
        return self.migrated_request_seconds + num_tokens * self.migrated_token_seconds


AUTO: Final = "auto"
KV_MODES: Final = (AUTO, "migrate", "recompute")
"""What a job may ask for: `auto` is a choice by cost."""

KvMode = Literal["migrate", "recompute"] | KvCosts
"""How a switch carries over KV: one way for all requests, or the costs to choose by per request."""


def kv_as_json(kv: KvMode) -> Any:
    """What `kv_from_json` reads."""
    return asdict(kv) if isinstance(kv, KvCosts) else kv


def kv_from_json(content: Any) -> KvMode:
    """The way that `kv_as_json` wrote. Raises `ValueError` for another."""
    if isinstance(content, dict) and set(content) == set(KvCosts.__slots__):
        return KvCosts(**content)
    if content == "migrate":
        return "migrate"
    if content == "recompute":
        return "recompute"
    raise ValueError(f"kv: {content!r} is not 'migrate', 'recompute' or the costs of both")


class HeldKv(NamedTuple):
    """A request at a switch, its group, and the KV tokens that it has there (0: not yet prefilled).

    Of those that have some the costs choose, with `group` the one of the new layout that will serve it.

    `prompt` names its prompt, which is the first `prompt_tokens` of them; "" where siblings are not known.
    """

    id: str
    group: int
    num_tokens: int
    prompt: str = ""
    prompt_tokens: int = 0


class _Step(NamedTuple):
    """A request that is recomputed from `limit_tokens` on, after `rank` others of its group."""

    limit_tokens: int
    group: int
    rank: int
    held: HeldKv


def recomputed_by(requests: Collection[HeldKv], kv: KvMode) -> frozenset[str]:
    """The ids of the requests that a switch recomputes."""
    if isinstance(kv, KvCosts):
        return choose_recomputed(requests, kv)
    return frozenset(request.id for request in requests if kv == "recompute")


def choose_recomputed(requests: Iterable[HeldKv], costs: KvCosts) -> frozenset[str]:
    """The ids of the requests to recompute, in O(n log n); the others migrate."""
    steps = sorted(_steps(requests))
    saved = 0.0
    migrating = math.fsum(costs.migrated_seconds(step.held.num_tokens) for step in steps)
    best, num_recomputed = migrating + costs.exchange_seconds, 0
    for count, step in enumerate(steps, start=1):
        saved += costs.migrated_seconds(step.held.num_tokens)
        moving = migrating - saved + costs.exchange_seconds if count < len(steps) else 0.0
        seconds = moving + step.limit_tokens * costs.recomputed_token_seconds
        if seconds < best:
            best, num_recomputed = seconds, count
    return frozenset(step.held.id for step in steps[:num_recomputed])


def prefilled_tokens(requests: Collection[HeldKv], recomputed: Collection[str]) -> dict[int, int]:
    """The tokens that each group prefills again, by group."""
    chosen = frozenset(recomputed)
    cached = {(one.group, one.prompt) for one in requests if one.prompt and one.id not in chosen}
    tokens: defaultdict[int, int] = defaultdict(int)
    for request in requests:
        if request.id in chosen:
            shared = request.prompt_tokens if (request.group, request.prompt) in cached else 0
            tokens[request.group] += request.num_tokens - shared
    return dict(tokens)


def _steps(requests: Iterable[HeldKv]) -> Iterable[_Step]:
    """Group by group, in the order in which they are recomputed."""
    groups: defaultdict[int, list[tuple[int, HeldKv]]] = defaultdict(list)
    for siblings in _families(requests):
        *others, last = sorted(siblings, key=lambda one: (one.num_tokens, one.id))
        added = [(one.num_tokens - one.prompt_tokens, one) for one in others]
        added.append((last.num_tokens + len(others) * last.prompt_tokens, last))
        groups[last.group] += added
    for group, members in groups.items():
        limit_tokens = 0
        for rank, (tokens, held) in enumerate(sorted(members, key=lambda one: (one[0], one[1].id))):
            limit_tokens += tokens
            yield _Step(limit_tokens, group, rank, held)


def _families(requests: Iterable[HeldKv]) -> Iterable[list[HeldKv]]:
    """The requests of one group with one prompt; those whose prompt is not known are alone."""
    families: defaultdict[tuple[int, str], list[HeldKv]] = defaultdict(list)
    for request in requests:
        if request.prompt:
            families[request.group, request.prompt].append(request)
        else:
            yield [request]
    yield from families.values()
