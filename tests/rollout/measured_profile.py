"""A profile of the tiny sample, as if it had been measured, for tests that only read it."""

from __future__ import annotations

from typing import Any

from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.step_surface import StepCell

KEY = ProfileKey(model="qwen3-1", device="CPU", dtype="float32", versions={"sglang": "1"})


def measured_profile(key: ProfileKey = KEY, *, most_batch: int = 8, **fields: Any) -> Profile:
    """Steps of 10 ms per request at TP1, half of it at TP2; contexts do not matter."""
    cells = [
        StepCell(
            degree=degree,
            batch=batch,
            context_tokens=context,
            busy_groups=busy,
            seconds=0.01 * batch / degree * busy,
            half_width_seconds=0.0002,
            num_samples=8,
        )
        for degree, busy in ((1, 1), (1, 2), (2, 1))
        for batch in (1, 4, most_batch)
        for context in (32, 256)
    ]
    switch = SwitchTerms(
        fixed_seconds=0.02,
        request_seconds=0.001,
        exchange_seconds=0.005,
        migrated_request_seconds=0.0005,
        byte_seconds=1e-9,
        recomputed_token_seconds=0.001,
        relative_error_p90=0.2,
        most_requests=8,
        most_bytes=1 << 24,
        most_recomputed_tokens=1000,
    )
    prefill = PrefillTerms(fixed_seconds=0.01, token_seconds=0.001, relative_error_p90=0.1)
    known: dict[str, Any] = {
        "footprint": 2,
        "degrees": (1, 2),
        "kv_bytes_per_token": 1024,
        "prefill": {1: prefill, 2: prefill},
        "switch": {(1, 2): switch, (2, 1): switch},
        "held_out_error": 0.021,
        "held_out_cell_error": 0.009,
        "held_out_share": 0.2,
        "made_at": "2026-11-21T12:00:00+00:00",
    }
    return Profile(key=key, cells=tuple(cells), **known | fields)
