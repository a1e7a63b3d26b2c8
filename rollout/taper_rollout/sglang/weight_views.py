"""Weights of a wide stack as views of the base stack's storage: no copy, no traffic, no second memory.

The wide model is built on torch's `meta` device, so not even a temporary copy exists,
and each of its parameters is then pointed into the base parameter of the same name:

    column-parallel (QKV, gate/up, LM head, embedding)   rows of the shard
    row-parallel (attention output, down projection)     columns of the shard, a strided view
    everything else (norms, biases of row-parallel)      the whole tensor

Merged matrices (QKV, gate/up) hold several shards one after another, so a wide shard is
one row range of each part: the layer keeps these views and runs one GEMM for each.

Shards are nested (`taper_policy.layout`), so the view of the shard that this rank holds
at the wider degree lies inside what it holds at the base degree. An update of the base
parameters is thereby an update of every stack.

Layer classes read at SGLang 0.5.23: `layers/linear.py`, `layers/vocab_parallel_embedding.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from torch import nn
from torch.nn import functional

from taper_policy.layout import shard_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardCut:
    """Which part of the base shard is the wide shard: part `index` of `parts` equal ones."""

    index: int
    parts: int

    @classmethod
    def of(cls, rank: int, base_degree: int, degree: int) -> ShardCut:
        parts = degree // base_degree
        index = shard_of(rank, degree) - shard_of(rank, base_degree) * parts
        if not 0 <= index < parts:
            raise ValueError(f"shard of rank {rank} at degree {degree} is not nested in degree {base_degree}")
        return cls(index=index, parts=parts)

    def take(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The view of this part of `tensor` along `dim`. Raises ValueError where it does not divide."""
        if tensor.shape[dim] % self.parts:
            raise ValueError(f"{tuple(tensor.shape)} does not divide by {self.parts} along {dim}")
        size = tensor.shape[dim] // self.parts
        return tensor.narrow(dim, self.index * size, size)


class SplitLinearMethod:
    """SGLang's linear method over several weight views: one GEMM for each, outputs concatenated."""

    def __init__(self, weights: list[torch.Tensor], biases: list[torch.Tensor] | None) -> None:
        self.weights = weights
        self.biases: Sequence[torch.Tensor | None] = biases or [None] * len(weights)

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        biases = self.biases if bias is not None else [None] * len(self.weights)
        parts = [functional.linear(x, w, b) for w, b in zip(self.weights, biases, strict=True)]
        return torch.cat(parts, dim=-1)


def adopt(wide: nn.Module, base: nn.Module, cut: ShardCut) -> None:
    """Point every parameter and buffer of `wide` (built on meta) into `base`'s storage.

    Raises ValueError, naming the layer, where a part does not divide, a layer kind is
    unknown, or anything is left on meta.
    """
    modules = dict(base.named_modules())
    for name, layer in wide.named_modules():
        twin = modules[name]
        if isinstance(layer, (QKVParallelLinear, MergedColumnParallelLinear)):
            _adopt_merged(layer, twin, cut)
        elif isinstance(layer, RowParallelLinear):
            _point(layer, "weight", cut.take(twin.weight.data, 1))
            if getattr(layer, "bias", None) is not None:
                _point(layer, "bias", twin.bias.data)
        elif isinstance(layer, (ColumnParallelLinear, VocabParallelEmbedding)):
            for parameter, value in twin.named_parameters(recurse=False):
                _point(layer, parameter, cut.take(value.data, 0))
        else:
            _adopt_whole(name, layer, twin)
        for buffer, tensor in twin.named_buffers(recurse=False):
            layer._buffers[buffer] = tensor
    left = [n for n, t in (*wide.named_parameters(), *wide.named_buffers()) if t.is_meta]
    if left:
        raise ValueError(f"weights that no view was found for: {', '.join(left[:5])}")


def _adopt_whole(name: str, layer: nn.Module, twin: nn.Module) -> None:
    for parameter, value in twin.named_parameters(recurse=False):
        own = layer._parameters.get(parameter)
        if own is not None and own.shape != value.shape:
            kind = type(layer).__name__
            raise ValueError(f"{name}.{parameter}: no view is known for the shards of a {kind}")
        _point(layer, parameter, value.data)


def _adopt_merged(layer: Any, twin: Any, cut: ShardCut) -> None:
    sizes = _part_sizes(twin)
    weights = [cut.take(part, 0) for part in twin.weight.data.split(sizes)]
    biases = None
    if getattr(layer, "bias", None) is not None:
        biases = [cut.take(part, 0) for part in twin.bias.data.split(sizes)]
        _point(layer, "bias", biases[0])
    _point(layer, "weight", weights[0])
    layer.quant_method = SplitLinearMethod(weights, biases)


def _part_sizes(layer: Any) -> list[int]:
    """Rows of each sub-matrix in a merged layer's weight, at the layer's own degree."""
    if isinstance(layer, QKVParallelLinear):
        return [
            layer.num_heads * layer.head_size,
            layer.num_kv_heads * layer.head_size,
            layer.num_kv_heads * layer.v_head_size,
        ]
    return list(layer.output_partition_sizes)


def _point(layer: nn.Module, name: str, tensor: torch.Tensor) -> None:
    layer._parameters[name] = nn.Parameter(tensor, requires_grad=False)
