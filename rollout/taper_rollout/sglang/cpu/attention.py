"""Attention of CPU ranks: SGLang's torch backend (0.5.23) without its two detours.

- Extending a sequence, it computes attention for the whole prefix once more. After a switch
  each request extends its prefix by one token, and that would be most of the pause.
- It gathers keys and values by advanced indexing, several times slower than `index_select`.

Without cross-attention, sliding windows and a KV cache in another dtype: no supported model has them.
Private names touched: `TorchNativeAttnBackend._run_sdpa_forward_extend`, `_run_sdpa_forward_decode`.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch.nn.functional import scaled_dot_product_attention


def install() -> None:
    """Let every torch attention backend of this process run these."""
    TorchNativeAttnBackend._run_sdpa_forward_extend = _extend
    TorchNativeAttnBackend._run_sdpa_forward_decode = _decode


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention of a sequence's last tokens over all of it.

    `query` `[new tokens, heads, head size]`, `keys` and `values` `[tokens, KV heads, head
    size]`; the result has the shape of `query`.
    """
    num_new, num_heads, head_size = query.shape
    keys, values = keys.transpose(0, 1), values.transpose(0, 1)
    num_kv_heads, num_tokens = keys.shape[:2]
    if num_new == 1:
        # The heads that share keys are the rows of one query.
        grouped = query.view(num_kv_heads, num_heads // num_kv_heads, head_size)
        mixed = scaled_dot_product_attention(grouped[None], keys[None], values[None], scale=scaling)
        return mixed.reshape(query.shape)
    starts_empty = num_new == num_tokens
    mask = None if starts_empty else _causal_mask(num_new, num_tokens)
    mixed = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=starts_empty,
        scale=scaling,
        enable_gqa=num_heads != num_kv_heads,
    )
    return mixed[0].transpose(0, 1)


def _causal_mask(num_new: int, num_tokens: int) -> torch.Tensor:
    return torch.ones(num_new, num_tokens, dtype=torch.bool).tril(num_tokens - num_new)


def _extend(
    self: Any,
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    extend_prefix_lens: torch.Tensor,
    extend_seq_lens: torch.Tensor,
    encoder_lens: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    tables = (req_to_token, req_pool_indices, seq_lens)
    return _run(query, output, (k_cache, v_cache), tables, extend_seq_lens.tolist(), options["scaling"])


def _decode(
    self: Any,
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    encoder_lens: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    tables = (req_to_token, req_pool_indices, seq_lens)
    return _run(query, output, (k_cache, v_cache), tables, [1] * len(seq_lens), options["scaling"])


def _run(
    query: torch.Tensor,
    output: torch.Tensor,
    caches: tuple[torch.Tensor, torch.Tensor],
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    lengths: list[int],
    scaling: float | None,
) -> torch.Tensor:
    """Each sequence's new tokens, which lie one after the other in `query` and `output`."""
    req_to_token, rows, seq_lens = tables
    start = 0
    for row, num_tokens, num_new in zip(rows.tolist(), seq_lens.tolist(), lengths, strict=True):
        slots = req_to_token[row, :num_tokens]
        keys, values = (cache.index_select(0, slots) for cache in caches)
        output[start : start + num_new] = attend(query[start : start + num_new], keys, values, scaling)
        start += num_new
    return output
