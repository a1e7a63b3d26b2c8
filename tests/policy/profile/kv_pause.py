"""The part of a switch's pause that follows from migrating or recomputing: what the choice minimises."""

from __future__ import annotations

import math
from collections.abc import Collection

from taper_policy.profile.kv_choice import HeldKv, KvCosts, prefilled_tokens


def kv_pause_seconds(requests: Collection[HeldKv], recomputed: Collection[str], costs: KvCosts) -> float:
    """Seconds of the pause for moving and prefilling, beyond what every switch takes."""
    chosen = frozenset(recomputed)
    moving = [request for request in requests if request.id not in chosen]
    migrated = math.fsum(costs.migrated_seconds(request.num_tokens) for request in moving)
    prefilled = max(prefilled_tokens(requests, chosen).values(), default=0)
    exchange = costs.exchange_seconds if moving else 0.0
    return exchange + migrated + prefilled * costs.recomputed_token_seconds
