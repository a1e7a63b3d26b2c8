"""A replica's settings, and a request's sampling, out of VeRL's rollout configuration (VeRL 0.9.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.verl.custom_block import read_block


def replica_settings(
    rollout: Any,
    *,
    model_path: str,
    model_dtype: str,
    trust_remote_code: bool,
    replica: int,
    device: str,
    node_address: str,
) -> ReplicaSettings:
    """The settings of replica `replica` from a VeRL `RolloutConfig`.

    `model_dtype` is the checkpoint's, for `rollout.dtype=auto`. The status server listens on
    loopback unless `custom.host` names an address, or `node` for `node_address`. Raises `JobError` naming
    the setting for what Taper does not know or does not serve.
    """
    block = read_block(rollout)
    return ReplicaSettings(
        rollout=block,
        model_path=model_path,
        dtype=model_dtype if rollout.dtype == "auto" else str(rollout.dtype),
        context_tokens=int(rollout.max_model_len or rollout.prompt_length + rollout.response_length),
        trust_remote_code=trust_remote_code,
        device=device,
        replica=replica,
        random_seed=int(rollout.seed),
        host=node_address if block.host == "node" else block.host or _loopback(replica),
        port=block.port + replica if block.port else 0,
        profiles=block.profiles,
    )


def _loopback(replica: int) -> str:
    """A loopback address of the replica's own: VeRL identifies servers by address; ports may be the same."""
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
