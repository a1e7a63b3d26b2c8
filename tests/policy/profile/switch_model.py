"""Seconds of a switch by a profile's terms, for amounts of both ways to carry over KV."""

from __future__ import annotations

from taper_policy.profile.profile import Profile


def switch_seconds(
    profile: Profile,
    from_degree: int,
    to_degree: int,
    *,
    requests: int,
    migrated_requests: int,
    migrated_tokens: int,
    recomputed_tokens: int,
) -> float:
    """Seconds of a switch's pause."""
    terms = profile.switch[from_degree, to_degree]
    seconds = terms.fixed_seconds + requests * terms.request_seconds
    if migrated_requests:
        seconds += terms.exchange_seconds + migrated_requests * terms.migrated_request_seconds
    num_bytes = migrated_tokens * profile.kv_bytes_per_token
    return seconds + num_bytes * terms.byte_seconds + recomputed_tokens * terms.recomputed_token_seconds
