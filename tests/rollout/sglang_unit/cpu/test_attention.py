"""Attention of CPU ranks is SGLang's own, to rounding, and right by a reference in higher precision."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

from taper_rollout.sglang.cpu import attention as cpu_attention

HEAD_SIZE, SLOTS = 8, 64
PLAIN: dict[str, Any] = {
    "scaling": HEAD_SIZE**-0.5,
    "enable_gqa": True,
    "is_cross_attn": False,
    "sliding_window_size": None,
}
LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=4)
HEADS = st.sampled_from([(4, 4), (4, 2), (6, 1)])


def batch(lengths: list[tuple[int, int]], heads: tuple[int, int]) -> SimpleNamespace:
    """Sequences of (prefix, new) tokens, whose slots lie anywhere in the cache."""
    torch.manual_seed(len(lengths) + 10 * sum(map(sum, lengths)))
    num_heads, num_kv_heads = heads
    totals = [prefix + new for prefix, new in lengths]
    table = torch.zeros(len(lengths) + 2, SLOTS, dtype=torch.int32)
    free = torch.randperm(SLOTS)
    for row, total in enumerate(totals):
        table[row + 1, :total] = free[sum(totals[:row]) :][:total]
    return SimpleNamespace(
        lengths=lengths,
        query=torch.randn(sum(new for _, new in lengths), num_heads, HEAD_SIZE),
        caches=[torch.randn(SLOTS, num_kv_heads, HEAD_SIZE) for _ in range(2)],
        table=table,
        rows=torch.arange(1, len(lengths) + 1),
        seq_lens=torch.tensor(totals),
        prefix_lens=torch.tensor([prefix for prefix, _ in lengths]),
        new_lens=torch.tensor([new for _, new in lengths]),
    )


STOCK = SimpleNamespace(
    extend=TorchNativeAttnBackend._run_sdpa_forward_extend,
    decode=TorchNativeAttnBackend._run_sdpa_forward_decode,
)


def extended(function: Any, b: SimpleNamespace) -> torch.Tensor:
    output = torch.empty_like(b.query)
    places = (b.table, b.rows, b.seq_lens, b.prefix_lens, b.new_lens)
    function(None, b.query, output, *b.caches, *places, None, causal=True, **PLAIN)
    return output


def reference(b: SimpleNamespace) -> torch.Tensor:
    """The definition of causal attention, token by token, in float64."""
    outputs, queries = [], iter(b.query.double())
    for row, (prefix, new) in enumerate(b.lengths, start=1):
        for position in range(prefix, prefix + new):
            slots = b.table[row, : position + 1].long()
            share = b.query.shape[1] // b.caches[0].shape[1]
            keys, values = (cache[slots].double().repeat_interleave(share, dim=1) for cache in b.caches)
            scores = torch.einsum("hd,thd->ht", next(queries), keys) / math.sqrt(HEAD_SIZE)
            outputs.append(torch.einsum("ht,thd->hd", scores.softmax(dim=-1), values))
    return torch.stack(outputs)


@given(LENGTHS, HEADS)
def test_extending_is_causal_attention_over_prefix_and_new_tokens(
    lengths: list[tuple[int, int]], heads: tuple[int, int]
) -> None:
    b = batch(lengths, heads)
    ours = extended(cpu_attention._extend, b)
    torch.testing.assert_close(ours.double(), reference(b), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, extended(STOCK.extend, b), rtol=1e-5, atol=1e-6)


@given(LENGTHS, HEADS)
def test_decoding_is_extending_by_one(lengths: list[tuple[int, int]], heads: tuple[int, int]) -> None:
    b = batch([(prefix + new - 1, 1) for prefix, new in lengths], heads)
    outputs = [torch.empty_like(b.query) for _ in range(2)]
    for function, output in zip((cpu_attention._decode, STOCK.decode), outputs, strict=True):
        function(None, b.query, output, *b.caches, b.table, b.rows, b.seq_lens, None, causal=False, **PLAIN)
    torch.testing.assert_close(outputs[0].double(), reference(b), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ours", "name"), [("_extend", "extend"), ("_decode", "decode")])
def test_sglang_calls_them_as_its_own(ours: str, name: str) -> None:
    stock = inspect.signature(getattr(STOCK, name)).parameters
    mine = [p for p in inspect.signature(getattr(cpu_attention, ours)).parameters if p != "options"]
    assert list(stock)[: len(mine)] == mine
    assert set(stock) - set(mine) == {*PLAIN, "causal"}
    assert f"self._run_sdpa_forward_{name}(" in inspect.getsource(TorchNativeAttnBackend)
