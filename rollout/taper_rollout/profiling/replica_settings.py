"""What a replica is started with, and the engine's settings that follow from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from taper_rollout.profiling.kv_budget import default_kv_tokens, read_model_shape
from taper_rollout.sglang.engine_settings import EngineSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Everything a replica is started with.

    `seed`: requests get seeds derived from it, and a seeded response is the same in every
    layout; None leaves sampling to the groups' generators, which start from `random_seed`.
    `response_tokens`: of the longest response, what the predictor takes for the cap.
    `kv_tokens`: arena tokens of a rank at the base degree, None for a default.
    `profile`: the file of a profile that must fit; without it one is looked for in the directory
    `profiles` (None: the user's) and, with `calibrate`, measured where none fits.
    """

    model_path: str
    dtype: str
    footprint: int
    degrees: tuple[int, ...]
    mode: str
    policy: dict[str, Any]
    kv: str
    switch_timeout_seconds: float
    seed: int | None
    kv_tokens: int | None
    max_running_requests: int | None
    context_tokens: int
    response_tokens: int
    trust_remote_code: bool
    device: str
    replica: int
    random_seed: int
    host: str
    port: int = 0
    log_level: str = "error"
    calibrate: bool = True
    profile: str | None = None
    profiles: str | None = None


def engine_settings(settings: ReplicaSettings) -> EngineSettings:
    """The engine's settings; the KV arena and its staging are sized from the model's shape."""
    shape = read_model_shape(settings.model_path, settings.dtype)
    running = settings.max_running_requests or 64
    on_cpu = settings.device == "cpu"
    kv_tokens = settings.kv_tokens
    if kv_tokens is None and on_cpu:
        kv_tokens = default_kv_tokens(running, settings.context_tokens)
    return EngineSettings(
        model_path=settings.model_path,
        footprint=settings.footprint,
        degrees=settings.degrees,
        device=settings.device,
        dtype=settings.dtype,
        kv_tokens=kv_tokens,
        max_running_requests=running,
        context_tokens=settings.context_tokens,
        seeded=settings.seed is not None,
        replica_seed=settings.random_seed * 1_000_003 + settings.replica,
        staging_bytes_per_rank=shape.staging_bytes(kv_tokens, settings.degrees[0])
        if on_cpu and kv_tokens
        else 0,
        trust_remote_code=settings.trust_remote_code,
        log_level=settings.log_level,
    )
