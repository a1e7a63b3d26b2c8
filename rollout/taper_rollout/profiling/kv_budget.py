"""Sizes of a rank's KV arena and of its staging buffer, from the model's shape."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from taper_rollout.profiling.key import actual_dtype

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MAX_DEFAULT_KV_TOKENS = 262_144


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The properties of a model that decide the size of its KV cache."""

    num_kv_heads: int
    head_dim: int
    num_layers: int
    element_bytes: int

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V of one token, over all layers and heads."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.element_bytes

    def staging_bytes(self, kv_tokens: int, base_degree: int) -> int:
        """Staging bytes of a rank that holds `kv_tokens` at the base degree: K and V of one layer, twice."""
        heads = self.num_kv_heads // base_degree
        whole = 2 * 2 * (kv_tokens + 1) * heads * self.head_dim * self.element_bytes
        return -(-whole // 8192) * 8192


def read_model_shape(model_path: str, dtype: str) -> ModelShape:
    """The shape of a local model directory. Raises ValueError if config.json lacks a field."""
    config = json.loads((Path(model_path) / "config.json").read_text())
    try:
        heads = config["num_attention_heads"]
        return ModelShape(
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            num_layers=config["num_hidden_layers"],
            # Under "auto" SGLang converts float32 checkpoints to float16; staging for the larger is enough.
            element_bytes=ELEMENT_BYTES[actual_dtype(config, dtype)],
        )
    except KeyError as missing:
        raise ValueError(f"{model_path}/config.json: no field {missing}") from None


def default_kv_tokens(max_running_requests: int, context_tokens: int) -> int:
    """Arena tokens of a rank: enough for all requests at full length, up to a limit."""
    return min(max_running_requests * context_tokens, MAX_DEFAULT_KV_TOKENS)
