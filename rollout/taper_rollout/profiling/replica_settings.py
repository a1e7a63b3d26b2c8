"""What a replica is started with, and the engine's settings that follow from it."""

from __future__ import annotations

import dataclasses

from taper_api.job.rollout_spec import RolloutSpec
from taper_rollout.profiling.kv_budget import default_kv_tokens, read_model_shape
from taper_rollout.sglang.engine_settings import EngineSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Everything a replica is started with: the job's rollout block, whole, and what the block does not hold.

    `random_seed`: start of the groups' generators, which draw where `rollout.sampling.seed` is None.
    `host`, `port`: where this replica's status server listens; port 0 is a free one.
    `profiles`: the directory in which a profile is looked for, None for the user's cache; with `calibrate`,
    one is measured where none fits.
    """

    rollout: RolloutSpec
    model_path: str
    dtype: str
    context_tokens: int
    trust_remote_code: bool
    device: str
    replica: int
    random_seed: int
    host: str
    port: int = 0
    calibrate: bool = True
    profiles: str | None = None


def engine_settings(settings: ReplicaSettings) -> EngineSettings:
    """The engine's settings; the KV arena and its staging are sized from the model's shape."""
    rollout = settings.rollout
    shape = read_model_shape(settings.model_path, settings.dtype)
    running = rollout.max_running_requests or 64
    on_cpu = settings.device == "cpu"
    kv_tokens = rollout.kv_tokens
    if kv_tokens is None and on_cpu:
        kv_tokens = default_kv_tokens(running, settings.context_tokens)
    return EngineSettings(
        model_path=settings.model_path,
        footprint=rollout.footprint,
        degrees=rollout.degrees,
        device=settings.device,
        dtype=settings.dtype,
        kv_tokens=kv_tokens,
        max_running_requests=running,
        context_tokens=settings.context_tokens,
        seeded=rollout.sampling.seed is not None,
        replica_seed=settings.random_seed * 1_000_003 + settings.replica,
        staging_bytes_per_rank=shape.staging_bytes(kv_tokens, rollout.degrees[0])
        if on_cpu and kv_tokens
        else 0,
        trust_remote_code=settings.trust_remote_code,
    )
