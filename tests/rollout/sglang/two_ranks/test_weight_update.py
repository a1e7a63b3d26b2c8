"""New weights are right in every layout and nothing of the old ones is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taper_rollout.sglang.engine import CommandFailed

from ..conftest import MakeModel
from ..live_engine import LiveEngine, StageResult, SwitchAt, differences, memory_faults, update_weights

THROUGH = [SwitchAt(tokens=20, degree=2), SwitchAt(tokens=50, degree=1), SwitchAt(tokens=80, degree=2)]


@pytest.fixture
def other(engine: LiveEngine, model: MakeModel, unswitched: StageResult) -> Iterator[StageResult]:
    """The engine on other weights than it was started with, and its responses in the base layout."""
    update_weights(engine, model("qwen3", 2))
    result = engine.stage()
    assert all(a != b for a, b in zip(result.tokens, unswitched.tokens, strict=True))
    yield result
    engine.call("mend")
    engine.settle(1)
    update_weights(engine, model("qwen3", 1))


def test_an_update_is_equal_to_a_fresh_engine(
    engine: LiveEngine, model: MakeModel, other: StageResult, unswitched: StageResult
) -> None:
    received = update_weights(engine, model("qwen3", 1))
    weight_bytes = engine.command("inspect")[0]["weight_bytes"]
    assert [r["received_bytes"] for r in received] == [weight_bytes, weight_bytes]
    assert differences(unswitched, engine.stage()) == []
    assert differences(unswitched, engine.stage(THROUGH)) == []
    assert differences(unswitched, engine.stage()) == []
    assert engine.engine.degree == 2
    assert memory_faults(engine.command("inspect")) == []


def test_an_update_while_wide_is_equal_to_a_fresh_engine(
    engine: LiveEngine, model: MakeModel, other: StageResult, unswitched: StageResult
) -> None:
    engine.settle(2)
    assert differences(other, engine.stage()) == []
    update_weights(engine, model("qwen3", 1))
    assert differences(unswitched, engine.stage()) == []
    assert differences(unswitched, engine.stage([SwitchAt(tokens=40, degree=1)])) == []


@pytest.mark.parametrize("degree", [1, 2])
def test_an_update_drops_every_prefix_cache(
    engine: LiveEngine, model: MakeModel, other: StageResult, degree: int
) -> None:
    engine.settle(degree)
    engine.stage()
    assert engine.call("cached_tokens")[0][str(degree)]["cached"] > 0
    update_weights(engine, model("qwen3", 1))
    for facts in engine.call("cached_tokens"):
        for stack in facts.values():
            assert stack["cached"] == 0
            assert stack["free"] == stack["slots"]


@pytest.mark.parametrize("degree", [1, 2])
def test_a_stack_that_is_not_flushed_is_noticed(
    engine: LiveEngine, model: MakeModel, other: StageResult, unswitched: StageResult, degree: int
) -> None:
    engine.settle(degree)
    engine.stage()
    engine.call("forget_to_flush", degree=degree)
    update_weights(engine, model("qwen3", 1))
    assert differences(unswitched, engine.stage())


def test_weights_of_its_own_make_a_wide_stack_stale(
    engine: LiveEngine, model: MakeModel, other: StageResult, unswitched: StageResult
) -> None:
    engine.call("copy_weights")
    update_weights(engine, model("qwen3", 1))
    assert differences(unswitched, engine.stage()) == []
    engine.settle(2)
    assert differences(unswitched, engine.stage())


def test_an_update_whose_flush_is_refused_fails(
    engine: LiveEngine, model: MakeModel, other: StageResult
) -> None:
    engine.call("refuse_to_flush", degree=2)
    with pytest.raises(CommandFailed, match="refused to flush"):
        update_weights(engine, model("qwen3", 1))


def test_a_source_that_fails_fails_the_update_and_not_the_engine(
    engine: LiveEngine, model: MakeModel, other: StageResult, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match=r"update_weights: .*No such file"):
        update_weights(engine, tmp_path / "missing")
    update_weights(engine, model("qwen3", 2))
    assert differences(other, engine.stage()) == []
