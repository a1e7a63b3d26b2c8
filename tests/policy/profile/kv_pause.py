"""The part of a switch's pause that follows from migrating or recomputing: what the choice minimises."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection

from taper_policy.profile.kv_choice import HeldKv, KvCosts


def kv_pause_seconds(requests: Collection[HeldKv], recomputed: Collection[str], costs: KvCosts) -> float:
    """Seconds of the pause for moving and prefilling, beyond what every switch takes."""
    chosen = frozenset(recomputed)
    moving = [request for request in requests if request.id not in chosen]
    migrated = math.fsum(costs.migrated_seconds(request.num_tokens) for request in moving)
    prefilled = max(prefilled_tokens(requests, chosen).values(), default=0)
    exchange = costs.exchange_seconds if moving else 0.0
    return exchange + migrated + prefilled * costs.recomputed_token_seconds


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
