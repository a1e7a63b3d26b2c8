"""Attention of CPU ranks: SGLang's torch backend (0.5.23) without its two detours.

- Extending a sequence, it computes attention for the whole prefix once more. After a switch
  each request extends its prefix by one token, and that would be most of the pause.
- It gathers keys and values by advanced indexing, several times slower than `index_select`.

Private names touched: `TorchNativeAttnBackend._run_sdpa_forward_extend` and
`_run_sdpa_forward_decode`, which keep the cases that are not ours: cross-attention, sliding
windows, and a KV cache in another dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch.nn.functional import scaled_dot_product_attention

_stock_extend = TorchNativeAttnBackend._run_sdpa_forward_extend
_stock_decode = TorchNativeAttnBackend._run_sdpa_forward_decode


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
    caches = (k_cache, v_cache)
    if not options["causal"] or not _is_ours(query, caches, encoder_lens, options):
        places = (req_to_token, req_pool_indices, seq_lens, extend_prefix_lens, extend_seq_lens)
        stock: torch.Tensor = _stock_extend(self, query, output, *caches, *places, encoder_lens, **options)
        return stock
    tables = (req_to_token, req_pool_indices, seq_lens)
    return _run(query, output, caches, tables, extend_seq_lens.tolist(), options["scaling"])


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
    caches, tables = (k_cache, v_cache), (req_to_token, req_pool_indices, seq_lens)
    if not _is_ours(query, caches, encoder_lens, options):
        stock: torch.Tensor = _stock_decode(self, query, output, *caches, *tables, encoder_lens, **options)
        return stock
    return _run(query, output, caches, tables, [1] * len(seq_lens), options["scaling"])


def _is_ours(
    query: torch.Tensor,
    caches: tuple[torch.Tensor, torch.Tensor],
    encoder_lens: torch.Tensor | None,
    options: dict[str, Any],
) -> bool:
    is_plain = not options["is_cross_attn"] and options["sliding_window_size"] is None
    return encoder_lens is None and is_plain and all(cache.dtype == query.dtype for cache in caches)


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
