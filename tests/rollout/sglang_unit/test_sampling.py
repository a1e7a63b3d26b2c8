"""Seeded draws are a function of seed, position and token alone; counts of penalties are rebuilt."""

from __future__ import annotations

import itertools
import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.sampling import penaltylib
from sglang.srt.sampling.sampling_params import SamplingParams

from taper_rollout.sglang.live_requests import sampling

VOCABULARY = 12


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32, as Austin Appleby published it."""
    mask = 0xFFFFFFFF

    def rotate(word: int, bits: int) -> int:
        return (word << bits | word >> (32 - bits)) & mask

    state, tail = seed, len(data) & ~3
    for (block,) in struct.iter_unpack("<I", data[:tail]):
        block = rotate(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
        state = (rotate(state ^ block, 13) * 5 + 0xE6546B64) & mask
    if data[tail:]:
        block = int.from_bytes(data[tail:], "little")
        state ^= rotate(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def test_the_reference_gives_the_published_values() -> None:
    assert murmur3(b"") == 0
    assert murmur3(b"", 1) == 0x514E28B7
    assert murmur3(b"test") == 0xBA6BD213
    assert murmur3(b"Hello, world!", 0x9747B28C) == 0x24884CBA


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**31 - 1)), min_size=1, max_size=5),
    st.lists(st.integers(0, 2**20), min_size=1, max_size=5),
)
def test_the_hash_is_murmur3_of_seed_position_and_column(
    rows: list[tuple[int, int]], columns: list[int]
) -> None:
    seeds = torch.tensor([seed for seed, _ in rows], dtype=torch.uint64)
    positions = torch.tensor([position for _, position in rows])
    found = sampling.murmur_hash32(seeds, positions, torch.tensor(columns))
    assert found.shape == (len(rows), len(columns))
    assert found.tolist() == [
        [murmur3(struct.pack("<QII", seed, position, column)) for column in columns]
        for seed, position in rows
    ]


def request(seed: int | None, output_ids: list[int]) -> Any:
    return SimpleNamespace(sampling_params=SimpleNamespace(sampling_seed=seed), output_ids=output_ids)


def adjusted(seeds: list[int | None]) -> Any:
    batch = SimpleNamespace(reqs=[request(seed, []) for seed in seeds], device="cpu")
    info = SimpleNamespace(
        sampling_seed=None, penalizer_orchestrator=SimpleNamespace(is_required=False, penalizers={})
    )
    sampling._adjust(info, batch, VOCABULARY)
    return info


def test_seeds_reach_the_sampler() -> None:
    largest = 2**63 - 1
    assert adjusted([5, largest]).sampling_seed.tolist() == [5, largest]
    assert adjusted([None, None]).sampling_seed is None
    assert adjusted([]).sampling_seed is None


def test_a_batch_with_and_without_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="either all requests of a replica carry a seed, or none does"):
        adjusted([5, None])


def recounted(name: str, **fields: torch.Tensor) -> Any:
    """A penalizer of two requests, of which the second has made tokens 3, 7 and 3."""
    penalizer = type(name, (), {"is_prepared": lambda self: True, "is_multiplicative": False})()
    for field, value in fields.items():
        setattr(penalizer, field, value)
    orchestrator = SimpleNamespace(is_required=True, penalizers={object: penalizer})
    batch = SimpleNamespace(reqs=[request(None, []), request(None, [3, 7, 3])], device="cpu")
    info = SimpleNamespace(sampling_seed=None, penalizer_orchestrator=orchestrator)
    sampling._adjust(info, batch, VOCABULARY)
    return penalizer


def at(value: dict[int, float], otherwise: float = 0.0) -> list[float]:
    return [value.get(token, otherwise) for token in range(VOCABULARY)]


def test_a_frequency_is_counted_as_often_as_the_token_came() -> None:
    penalizer = recounted(
        "BatchedFrequencyPenalizer",
        frequency_penalties=torch.tensor([[0.5], [0.25]]),
        cumulated_frequency_penalties=torch.zeros(2, VOCABULARY),
    )
    assert penalizer.cumulated_frequency_penalties.tolist() == [at({}), at({3: 0.5, 7: 0.25})]


def test_a_presence_is_counted_once() -> None:
    penalizer = recounted(
        "BatchedPresencePenalizer",
        presence_penalties=torch.tensor([[0.5], [0.25]]),
        cumulated_presence_penalties=torch.zeros(2, VOCABULARY),
    )
    assert penalizer.cumulated_presence_penalties.tolist() == [at({}), at({3: 0.25, 7: 0.25})]


def test_a_repetition_is_counted_once() -> None:
    penalizer = recounted(
        "BatchedRepetitionPenalizer",
        repetition_penalties=torch.tensor([[1.5], [1.25]]),
        cumulated_repetition_penalties=torch.ones(2, VOCABULARY),
    )
    assert penalizer.cumulated_repetition_penalties.tolist() == [at({}, 1.0), at({3: 1.25, 7: 1.25}, 1.0)]


def test_a_minimum_counts_all_tokens() -> None:
    penalizer = recounted("BatchedMinNewTokensPenalizer", len_output_tokens=torch.zeros(2, 1))
    assert penalizer.len_output_tokens.tolist() == [[0], [3]]


def test_an_unknown_penalizer_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="BatchedMoodPenalizer is not known to survive a switch"):
        recounted("BatchedMoodPenalizer")


def test_penalties_apply_in_one_order_whatever_the_process() -> None:
    """SGLang keeps them in a set of classes, whose order changes from process to process."""

    class Batch(SimpleNamespace):
        """Can be referred to weakly."""

    asked = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=1.5)
    batch = Batch(device="cpu", reqs=[SimpleNamespace(sampling_params=asked, output_ids=[VOCABULARY - 1])])
    classes = [
        penaltylib.BatchedRepetitionPenalizer,
        penaltylib.BatchedFrequencyPenalizer,
        penaltylib.BatchedPresencePenalizer,
    ]
    results = set()
    for order in itertools.permutations(classes):
        orchestrator = penaltylib.BatchedPenalizerOrchestrator(VOCABULARY, batch, order)
        sampling._adjust(SimpleNamespace(penalizer_orchestrator=orchestrator), batch, VOCABULARY)
        logits = torch.linspace(-3, 3, VOCABULARY).unsqueeze(0)
        with torch.compiler.set_stance("force_eager"):
            orchestrator.apply(logits)
        results.add(tuple(logits[0].tolist()))
    assert len(results) == 1
