"""Each check fails when the one thing that it guards is broken on purpose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taper_rollout.sglang.engine import CommandFailed

from ..live_engine import (
    GREEDY,
    NOISE_ONLY,
    PROMPTS,
    LiveEngine,
    StageResult,
    SwitchAt,
    differences,
    memory_faults,
    split_tokens,
    unseeded_siblings,
    unseeded_tokens,
)

WIDEN = [SwitchAt(tokens=30, degree=2)]


def test_wrong_kv_heads_are_noticed(engine: LiveEngine, unswitched: StageResult) -> None:
    engine.call("take_wrong_heads")
    assert differences(unswitched, engine.stage(WIDEN))


def test_wrong_kv_heads_of_a_narrowing_are_noticed(engine: LiveEngine, unswitched: StageResult) -> None:
    engine.settle(2)
    engine.call("take_wrong_heads")
    assert differences(unswitched, engine.stage([SwitchAt(tokens=30, degree=1)]))


def test_two_half_size_pools_are_noticed(engine: LiveEngine, unswitched: StageResult) -> None:
    engine.call("halve_arenas")
    assert differences(unswitched, engine.stage(WIDEN)) == []
    facts = engine.command("inspect")
    engine.settle(1)
    assert len([fault for fault in memory_faults(facts) if "bytes of KV" in fault]) == 2


def test_private_weights_are_noticed(engine: LiveEngine, unswitched: StageResult) -> None:
    engine.call("copy_weights")
    assert differences(unswitched, engine.stage(WIDEN)) == []
    assert len([fault for fault in memory_faults(engine.command("inspect")) if "weights" in fault]) == 2


def test_unequal_random_state_is_noticed(engine: LiveEngine) -> None:
    engine.call("drift")
    _, tokens = unseeded_tokens(engine, [SwitchAt(tokens=10, degree=2)])
    assert split_tokens(tokens)


def test_equal_noise_of_two_groups_is_noticed(engine: LiveEngine) -> None:
    engine.call("share_noise")
    assert len(unseeded_siblings(engine, NOISE_ONLY)) < 4


def test_a_refused_flush_is_an_error(engine: LiveEngine) -> None:
    engine.call("refuse_to_flush", degree=1)
    with pytest.raises(CommandFailed, match="refused to flush"):
        engine.command("flush")
    engine.call("mend")
    engine.command("flush")


def test_a_request_outlives_a_refused_flush(engine: LiveEngine, unswitched: StageResult) -> None:
    async def scenario() -> dict[str, Any]:
        task = asyncio.create_task(engine.engine.generate(PROMPTS[0], GREEDY, logprobs=True))
        await engine.reached(20)
        await engine.engine.command("call", function="refuse_to_flush", degree=1)
        with pytest.raises(CommandFailed):
            await engine.engine.command("flush")
        await engine.engine.command("call", function="mend")
        return await asyncio.wait_for(task, 30)

    output = engine.run(scenario())
    assert output["output_ids"] == unswitched.tokens[0]
    assert len(output["meta_info"]["output_token_logprobs"]) == len(unswitched.tokens[0])
