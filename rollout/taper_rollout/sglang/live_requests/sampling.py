"""What sampling must keep over a switch: penalties, their order, and seeds of requests.

SGLang (0.5.23) rebuilds a batch's sampling state when a request is re-admitted, but
counts only tokens from then on (`sampling/penaltylib/*.py`, `_prepare`): penalties and
`min_new_tokens` would start from zero. Here the tokens that exist are counted again. SGLang
also applies the penalties in the order of a set of classes, which differs from process to
process: logits of a request with several would depend on the rank. Here they are added
first and scaled then, as in SGLang's overlap mode.

And it honours a request's `sampling_seed` only under deterministic inference, which
refuses CPU attention and turns the prefix cache off; the sampler itself needs just the
seeds' tensor (`layers/sampler.py:838`). A seeded draw depends on (seed, position) alone,
so it is the same in every layout. Its hash is a kernel of `sgl_kernel` on CPU, which the
wheel does not bring: `murmur_hash32` computes the same numbers with torch.

`SamplingBatchInfo.adjusted_from_schedule_batch` is SGLang's own place for overriding.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers import sampler
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

_MASK = 0xFFFFFFFF


def install() -> None:
    """Make every batch of this process keep penalties and honour seeds."""
    SamplingBatchInfo.adjusted_from_schedule_batch = _adjust
    if not torch.cuda.is_available():
        sampler.murmur_hash32 = murmur_hash32


def murmur_hash32(seed: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """MurmurHash3 (32 bit) of (seed, position, column): `[rows, columns]`, int64 in [0, 2**32).

    `seed` `[rows]` uint64, `positions` `[rows]`, `columns` `[columns]`. The same function as
    SGLang's Triton kernel (`kernels/ops/sampling/murmur_hash.py`).
    """
    seed = seed.view(torch.int64)
    state = torch.zeros_like(seed)
    for block in (seed & _MASK, (seed >> 32) & _MASK, positions.to(torch.int64) & _MASK):
        state = _mix(state, block)
    state = _mix(state.unsqueeze(1), columns.to(torch.int64).unsqueeze(0)) ^ 16
    state = ((state ^ state >> 16) * 0x85EBCA6B) & _MASK
    state = ((state ^ state >> 13) * 0xC2B2AE35) & _MASK
    return state ^ state >> 16


def _mix(state: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    # int64 products wrap, which leaves their low 32 bits right.
    block = (_rotate((block * 0xCC9E2D51) & _MASK, 15) * 0x1B873593) & _MASK
    return (_rotate(state ^ block, 13) * 5 + 0xE6546B64) & _MASK


def _rotate(word: torch.Tensor, bits: int) -> torch.Tensor:
    return (word << bits | word >> (32 - bits)) & _MASK


def _adjust(self: Any, batch: Any, vocab_size: int) -> None:
    seeds = [request.sampling_params.sampling_seed for request in batch.reqs]
    if seeds and all(seed is not None for seed in seeds):
        self.sampling_seed = torch.tensor(seeds, dtype=torch.int64, device=batch.device)
    elif any(seed is not None for seed in seeds):
        raise ValueError("sampling_seed: either all requests of a replica carry a seed, or none does")
    _order(self.penalizer_orchestrator)
    if self.penalizer_orchestrator.is_required:
        _recount(self.penalizer_orchestrator, batch)


def _order(orchestrator: Any) -> None:
    """Also where no penalty is asked for yet: a batch keeps its order when others are merged into it."""
    in_order = sorted(
        orchestrator.penalizers.items(), key=lambda item: (item[1].is_multiplicative, type(item[1]).__name__)
    )
    orchestrator.penalizers = dict(in_order)


def _recount(orchestrator: Any, batch: Any) -> None:
    """Count each request's existing output tokens in its row of the penalizers."""
    for row, request in enumerate(batch.reqs):
        if not len(request.output_ids):
            continue
        tokens = torch.tensor(list(request.output_ids), dtype=torch.int64, device=batch.device)
        for penalizer in orchestrator.penalizers.values():
            if penalizer.is_prepared():
                _recount_row(penalizer, row, tokens)


def _recount_row(penalizer: Any, row: int, tokens: torch.Tensor) -> None:
    name = type(penalizer).__name__
    if name == "BatchedFrequencyPenalizer":
        amount = penalizer.frequency_penalties[row].expand(len(tokens))
        penalizer.cumulated_frequency_penalties[row].scatter_add_(0, tokens, amount)
    elif name == "BatchedPresencePenalizer":
        penalizer.cumulated_presence_penalties[row, tokens] = penalizer.presence_penalties[row]
    elif name == "BatchedRepetitionPenalizer":
        penalizer.cumulated_repetition_penalties[row, tokens] = penalizer.repetition_penalties[row]
    elif name == "BatchedMinNewTokensPenalizer":
        penalizer.len_output_tokens[row] = len(tokens)
    else:
        raise NotImplementedError(f"penalizer {name} is not known to survive a switch")
