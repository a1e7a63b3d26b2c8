"""What switches do with the KV cache: what a job asks for, what one switch does, what is reported."""

from __future__ import annotations

from typing import Final

from taper_policy.profile.kv_choice import AUTO, KvMode, kv_from_json
from taper_policy.profile.profile import Profile
from taper_rollout.switching.figures import SwitchFigures

MIXED: Final = "mixed"


def kv_mode(asked: str, profile: Profile | None, from_degree: int, to_degree: int) -> KvMode:
    """The mode of a switch: the job's own, or with `auto` by the profile's costs.

    Without costs of this pair all migrate: the KV that exists bounds what that takes.
    """
    if asked != AUTO:
        return kv_from_json(asked)
    if profile is None or (from_degree, to_degree) not in profile.switch:
        return "migrate"
    return profile.kv_costs(from_degree, to_degree)


def kv_reported(asked: str, figures: SwitchFigures | None) -> str:
    """`migrate`, `recompute` or `mixed`, by a switch's figures; what was asked where there was no KV."""
    if figures is None:
        return asked
    if figures.migrated_requests and figures.recomputed_requests:
        return MIXED
    if figures.migrated_requests:
        return "migrate"
    return "recompute" if figures.recomputed_requests else asked
