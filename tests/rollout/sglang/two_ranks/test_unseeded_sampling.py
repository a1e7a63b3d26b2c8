"""Temperature 1 without seeds: ranks of a group draw the same noise, groups draw different noise."""

from __future__ import annotations

import pytest

from ..live_engine import (
    NOISE_ONLY,
    LiveEngine,
    StageResult,
    SwitchAt,
    differences,
    memory_faults,
    seeded,
    split_tokens,
    unseeded_siblings,
    unseeded_tokens,
)

THREE_WIDENINGS = [
    SwitchAt(tokens=tokens, degree=degree) for tokens, degree in ((10, 2), (30, 1), (50, 2), (70, 1), (90, 2))
]


def test_ranks_of_a_group_sample_equal_tokens_at_every_step(engine: LiveEngine) -> None:
    result, tokens = unseeded_tokens(engine, THREE_WIDENINGS)
    assert split_tokens(tokens) == []
    wide = [entry for entry in tokens[1] if entry[1] == 2]
    assert {entry[0] for entry in wide} == set(result.epochs[::2])
    assert len(wide) > 3 * 15 * len(result.tokens)
    assert all(len(values) == len(ids) for values, ids in zip(result.log_probs, result.tokens, strict=True))


@pytest.mark.parametrize("temperature", [1.0, NOISE_ONLY])
def test_groups_draw_different_noise_after_a_narrowing(engine: LiveEngine, temperature: float) -> None:
    assert len(unseeded_siblings(engine, temperature)) == 4


def test_seeded_stage_is_equal(engine: LiveEngine) -> None:
    sampling = seeded(temperature=1.0, top_p=0.9, top_k=50)
    unswitched = engine.stage(sampling=sampling)
    switched = engine.stage(THREE_WIDENINGS, sampling=sampling)
    assert differences(unswitched, switched) == []
    assert memory_faults(engine.command("inspect")) == []
    assert differences(unswitched, engine.stage(sampling=seeded(temperature=1.0, sampling_seed=3)))


def test_seeds_make_siblings_differ(engine: LiveEngine) -> None:
    prompts = [[5, 6, 7, 8]] * 4
    result: StageResult = engine.stage(sampling=seeded(count=4), prompts=prompts)
    assert len({tuple(tokens) for tokens in result.tokens}) == 4
