"""A wide model's weights are the right parts of the whole matrices, and lie in the base model's storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sglang.srt.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from torch import nn

from taper_policy.layout import shard_rows
from taper_rollout.sglang import weight_views
from taper_rollout.sglang.weight_views import ShardCut

from ..sglang.rank_plugins import private_bytes

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, GATE, VOCABULARY = 24, 16, 8, 3, 40, 64
WHOLE = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(index))
    for index, (name, shape) in enumerate(
        {
            "q": (HEADS * HEAD_SIZE, HIDDEN),
            "k": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "v": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "q_bias": (HEADS * HEAD_SIZE,),
            "k_bias": (KV_HEADS * HEAD_SIZE,),
            "v_bias": (KV_HEADS * HEAD_SIZE,),
            "gate": (GATE, HIDDEN),
            "up": (GATE, HIDDEN),
            "down": (HIDDEN, GATE),
            "down_bias": (HIDDEN,),
            "embedding": (VOCABULARY, HIDDEN),
            "head": (VOCABULARY, HIDDEN),
            "norm": (HIDDEN,),
            "table": (50, HEAD_SIZE),
        }.items()
    )
}
CASES = [
    (base, degree, rank)
    for base, degree in ((1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8))
    for rank in range(degree)
]


def part(name: str, rank: int, degree: int, dim: int = 0) -> torch.Tensor:
    """The shard of a whole matrix that `rank` holds at `degree`."""
    rows = shard_rows(rank, degree, WHOLE[name].shape[dim])
    return WHOLE[name].narrow(dim, rows.start, len(rows))


def bare(kind: type, **fields: Any) -> Any:
    """A layer of SGLang's class with only what views need of it: its own constructor wants a live engine."""
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for name, value in fields.items():
        value = nn.Parameter(value, requires_grad=False) if isinstance(value, torch.Tensor) else value
        setattr(layer, name, value)
    return layer


def build(rank: int, degree: int) -> nn.Module:
    """A model of every kind of layer, as `rank` holds it at `degree`."""

    def merged(*names: str) -> torch.Tensor:
        return torch.cat([part(name, rank, degree) for name in names])

    model = nn.Module()
    model.qkv = bare(
        QKVParallelLinear,
        weight=merged("q", "k", "v"),
        bias=merged("q_bias", "k_bias", "v_bias"),
        num_heads=HEADS // degree,
        num_kv_heads=KV_HEADS // degree,
        head_size=HEAD_SIZE,
        v_head_size=HEAD_SIZE,
    )
    model.gate_up = bare(
        MergedColumnParallelLinear,
        weight=merged("gate", "up"),
        bias=None,
        output_partition_sizes=[GATE // degree] * 2,
    )
    model.down = bare(
        RowParallelLinear, weight=part("down", rank, degree, 1).clone(), bias=WHOLE["down_bias"].clone()
    )
    model.embedding = bare(VocabParallelEmbedding, weight=part("embedding", rank, degree).clone())
    model.head = bare(ColumnParallelLinear, weight=part("head", rank, degree).clone(), bias=None)
    model.norm = nn.LayerNorm(HIDDEN, bias=False)
    model.norm.weight = nn.Parameter(WHOLE["norm"].clone(), requires_grad=False)
    model.norm.register_buffer("table", WHOLE["table"].clone())
    return model


def widened(base: int, degree: int, rank: int) -> tuple[Any, Any]:
    """The base model, and the wide one as views of it."""
    narrow, wide = build(rank, base), build(rank, degree).to("meta")
    weight_views.adopt(wide, narrow, ShardCut.of(rank, base, degree))
    return narrow, wide


def outputs(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "qkv": model.qkv.quant_method.apply(model.qkv, x, model.qkv.bias),
        "gate_up": model.gate_up.quant_method.apply(model.gate_up, x),
    }


@pytest.mark.parametrize(("base", "degree", "rank"), CASES)
def test_each_layer_has_its_shard(base: int, degree: int, rank: int) -> None:
    _, wide = widened(base, degree, rank)
    expected = build(rank, degree)
    for name in ("down", "embedding", "head", "norm"):
        assert torch.equal(getattr(wide, name).weight, getattr(expected, name).weight), name
    assert torch.equal(wide.down.bias, WHOLE["down_bias"])
    assert torch.equal(wide.norm.table, WHOLE["table"])
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(99))
    made = outputs(wide, x)
    assert torch.allclose(
        made["qkv"], nn.functional.linear(x, expected.qkv.weight, expected.qkv.bias), atol=1e-5
    )
    assert torch.allclose(made["gate_up"], nn.functional.linear(x, expected.gate_up.weight), atol=1e-5)


@pytest.mark.parametrize(("base", "degree", "rank"), CASES)
def test_no_byte_is_private(base: int, degree: int, rank: int) -> None:
    narrow, wide = widened(base, degree, rank)
    assert private_bytes(wide, narrow) == 0
    assert not any(tensor.is_meta for tensor in (*wide.parameters(), *wide.buffers()))


@pytest.mark.parametrize("name", ["qkv", "gate_up", "down", "embedding", "head", "norm"])
def test_a_copy_is_counted(name: str) -> None:
    narrow, wide = widened(1, 2, 1)
    layer = getattr(wide, name)
    copied = layer.weight.data.clone()
    layer.weight.data = copied
    assert private_bytes(wide, narrow) == copied.nbytes


def test_a_copy_of_one_part_is_counted() -> None:
    narrow, wide = widened(1, 2, 1)
    method = wide.gate_up.quant_method
    method.weights = [method.weights[0], method.weights[1].clone()]
    assert private_bytes(wide, narrow) == GATE // 2 * HIDDEN * 4


def test_an_update_of_the_base_is_an_update_of_the_wide() -> None:
    narrow, wide = widened(1, 4, 2)
    x = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(1))
    before = outputs(wide, x)
    for tensor in (*narrow.parameters(), *narrow.buffers()):
        tensor.data.mul_(2)
    after = outputs(wide, x)
    assert all(torch.allclose(after[name], 2 * before[name], atol=1e-5) for name in before)
    assert torch.equal(wide.down.weight, 2 * part("down", 2, 4, 1))
    assert torch.equal(wide.norm.table, 2 * WHOLE["table"])


def test_cuts_of_a_group_cover_the_base_shard_once() -> None:
    for base, degree in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8)):
        for first in range(base):
            cuts = [ShardCut.of(rank, base, degree) for rank in range(first, degree, base)]
            assert sorted(cut.index for cut in cuts) == list(range(degree // base))


def test_a_matrix_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(24, 3\) does not divide by 5 along 0"):
        ShardCut(index=0, parts=5).take(torch.empty(24, 3), 0)


def test_a_weight_without_a_view_is_named() -> None:
    narrow, wide = build(0, 1), build(0, 2).to("meta")
    wide.norm.register_parameter("extra", nn.Parameter(torch.empty(3, device="meta"), requires_grad=False))
    with pytest.raises(ValueError, match=r"no view was found for: norm\.extra"):
        weight_views.adopt(wide, narrow, ShardCut.of(0, 1, 2))


def test_a_sharded_layer_of_an_unknown_kind_is_named() -> None:
    """Its whole weight would be taken for its shard."""
    narrow, wide = build(0, 1), build(0, 2).to("meta")
    narrow.experts, wide.experts = nn.Module(), nn.Module()
    narrow.experts.register_parameter("weight", nn.Parameter(torch.zeros(8, 6), requires_grad=False))
    shard = torch.empty(8, 3, device="meta")
    wide.experts.register_parameter("weight", nn.Parameter(shard, requires_grad=False))
    with pytest.raises(ValueError, match=r"experts\.weight: no view is known"):
        weight_views.adopt(wide, narrow, ShardCut.of(0, 1, 2))
