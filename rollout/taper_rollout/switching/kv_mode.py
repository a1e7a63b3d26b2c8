"""What switches do with the KV cache: what a job asks for, what that means for one switch, what is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taper_policy.profile.kv_choice import AUTO, KvMode, kv_from_json
from taper_policy.profile.profile import Profile

MIXED: Final = "mixed"


def kv_mode(asked: str, profile: Profile | None, from_degree: int, to_degree: int) -> KvMode:
    """The way of a switch: the job's own, or with `auto` by the profile's costs.

    Without costs of this pair all migrate: that is what is bounded by the KV that there is.
    """
    if asked != AUTO:
        return kv_from_json(asked)
    if profile is None or (from_degree, to_degree) not in profile.switch:
        return "migrate"
    return profile.kv_costs(from_degree, to_degree)


def kv_reported(asked: str, figures: Mapping[str, Any]) -> str:
    """`migrate`, `recompute` or `mixed`, by a switch's figures; what was asked where there was no KV."""
    migrated, recomputed = (figures.get(name, 0) > 0 for name in ("migrated_requests", "recomputed_requests"))
    if migrated and recomputed:
        return MIXED
    if migrated or recomputed:
        return "migrate" if migrated else "recompute"
    return asked
