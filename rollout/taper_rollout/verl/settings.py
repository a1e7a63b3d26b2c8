"""A replica's settings out of VeRL's rollout configuration (VeRL 0.9.1).

What only Taper knows travels in `actor_rollout_ref.rollout.custom`; all of it is optional,
so that `rollout.name=taper` alone works: every degree up to the footprint, the predictor.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from taper_policy.profile.kv_choice import AUTO, KV_MODES

CUSTOM_KEYS = frozenset(
    {
        "degrees",
        "mode",
        "policy",
        "kv",
        "switch_timeout_seconds",
        "seed",
        "kv_tokens",
        "max_running_requests",
        "profile",
        "profiles",
        "run",
        "output",
        "host",
        "port",
        "metrics",
    }
)
_CUSTOM = "actor_rollout_ref.rollout.custom"


def default_degrees(footprint: int) -> tuple[int, ...]:
    """Every power of two up to the footprint."""
    return tuple(1 << power for power in range(footprint.bit_length()))


def replica_settings(
    rollout: Any,
    *,
    model_path: str,
    model_dtype: str,
    trust_remote_code: bool,
    replica: int,
    device: str,
    node_address: str,
) -> dict[str, Any]:
    """The fields of replica `replica`'s `ReplicaSettings` from a VeRL `RolloutConfig`.

    Plain values: they are made in the trainer's process, which need not import the engine.
    `model_dtype` is the checkpoint's, for `rollout.dtype=auto`. The status server listens on
    loopback unless `custom.host` names an address, or `node` for `node_address`. Raises `ValueError` naming
    the setting for what Taper does not know or does not serve.
    """
    custom: Mapping[str, Any] = rollout.custom or {}
    unknown = sorted(set(custom) - CUSTOM_KEYS)
    if unknown:
        known = ", ".join(sorted(CUSTOM_KEYS))
        raise ValueError(f"{_CUSTOM}.{unknown[0]}: unknown setting; use one of {known}")
    for name in ("data_parallel_size", "pipeline_model_parallel_size"):
        if getattr(rollout, name) != 1:
            raise ValueError(
                f"actor_rollout_ref.rollout.{name}: {getattr(rollout, name)} is not supported; use 1"
            )
    footprint = int(rollout.tensor_model_parallel_size)
    return {
        "model_path": model_path,
        "dtype": model_dtype if rollout.dtype == "auto" else str(rollout.dtype),
        "footprint": footprint,
        "degrees": tuple(int(degree) for degree in custom.get("degrees") or default_degrees(footprint)),
        "mode": str(custom.get("mode", "enforce")),
        "policy": dict(custom.get("policy") or {"name": "predictor"}),
        "kv": _kv(custom),
        "switch_timeout_seconds": float(custom.get("switch_timeout_seconds", 30.0)),
        "seed": custom.get("seed"),
        "kv_tokens": custom.get("kv_tokens"),
        "max_running_requests": custom.get("max_running_requests"),
        "profile": custom.get("profile"),
        "profiles": custom.get("profiles"),
        "context_tokens": int(rollout.max_model_len or rollout.prompt_length + rollout.response_length),
        "response_tokens": int(rollout.response_length),
        "trust_remote_code": trust_remote_code,
        "device": device,
        "replica": replica,
        "random_seed": int(rollout.seed),
        "host": node_address if custom.get("host") == "node" else custom.get("host") or _loopback(replica),
        "port": int(custom["port"]) + replica if custom.get("port") else 0,
        "log_level": "error",
    }


def _kv(custom: Mapping[str, Any]) -> str:
    kv = str(custom.get("kv", AUTO))
    if kv not in KV_MODES:
        raise ValueError(f"{_CUSTOM}.kv: {kv!r} is not one of {', '.join(KV_MODES)}")
    return kv


def _loopback(replica: int) -> str:
    """A replica's own loopback address: VeRL tells servers apart by address, and nodes may agree in ports."""
    return str(ipaddress.IPv4Address("127.0.0.1") + replica)


def engine_sampling(
    sampling: Mapping[str, Any], *, prompt_tokens: int, response_length: int, context_tokens: int
) -> tuple[dict[str, Any], bool]:
    """VeRL's sampling parameters as the engine's, and whether log-probs are wanted.

    VeRL names the limit `max_tokens` or `max_new_tokens`, or leaves it to the rollout: the
    response length, and never past the context. Raises `ValueError` when nothing is left.
    """
    engine = dict(sampling)
    logprobs = bool(engine.pop("logprobs", False))
    limits = [engine.pop(name, None) for name in ("max_new_tokens", "max_tokens")]
    asked = next((int(limit) for limit in limits if limit is not None), response_length)
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens leaves no room in a context of {context_tokens}"
        )
    engine["max_new_tokens"] = max(1, min(asked, room))
    return engine, logprobs
