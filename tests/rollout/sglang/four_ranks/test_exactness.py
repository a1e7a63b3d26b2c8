"""Four ranks of Llama, degrees 1, 2 and 4, on however few cores: responses do not depend on the layout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from taper_policy.profile.kv_choice import KvMode
from taper_rollout.sglang.engine import EngineDied
from taper_rollout.sglang.engine_settings import EngineSettings

from ..conftest import MakeModel
from ..live_engine import (
    BY_LENGTH,
    GREEDY,
    MIXED_PROMPTS,
    PROMPTS,
    LiveEngine,
    StageResult,
    SwitchAt,
    differences,
    memory_faults,
    mix_faults,
    seeded,
    split_tokens,
    unseeded_tokens,
    update_weights,
)

SHORT = GREEDY | {"max_new_tokens": 80}
TIMELINES = {
    "to the widest and back": [(15, 4), (45, 1)],
    "through every degree and back": [(8, 2), (20, 4), (35, 2), (55, 1)],
    "over a degree": [(10, 4), (25, 2), (40, 4), (60, 1)],
}


def timeline(name: str, kv: KvMode = "migrate") -> list[SwitchAt]:
    return [SwitchAt(tokens=tokens, degree=degree, kv=kv) for tokens, degree in TIMELINES[name]]


@pytest.fixture(scope="module")
def quad(loop: asyncio.AbstractEventLoop, model: MakeModel, rank_plugins: str) -> Iterator[LiveEngine]:
    engine = LiveEngine(
        loop,
        EngineSettings(
            model_path=str(model("llama", 1)),
            footprint=4,
            degrees=(1, 2, 4),
            dtype="float32",
            kv_tokens=4096,
            max_running_requests=16,
            context_tokens=1024,
            staging_bytes_per_rank=32 << 20,
            replica_seed=5,
            plugins=(rank_plugins,),
        ),
    )
    yield engine
    engine.close()


@pytest.fixture
def engine(quad: LiveEngine) -> Iterator[LiveEngine]:
    quad.settle(1)
    yield quad
    if quad.engine.fault is None:
        quad.call("mend")


@pytest.fixture(scope="module")
def unswitched(quad: LiveEngine) -> StageResult:
    quad.settle(1)
    return quad.stage(sampling=SHORT)


@pytest.mark.parametrize("name", TIMELINES)
def test_greedy_stage_is_equal(engine: LiveEngine, unswitched: StageResult, name: str) -> None:
    switched = engine.stage(timeline(name), sampling=SHORT)
    assert differences(unswitched, switched) == []
    assert memory_faults(engine.command("inspect")) == []
    for figures in switched.switches:
        assert figures.live_requests == len(PROMPTS)
        assert figures.prefilled_tokens <= figures.live_requests


def test_a_recomputed_stage_is_equal(engine: LiveEngine, unswitched: StageResult) -> None:
    switched = engine.stage(timeline("through every degree and back", "recompute"), sampling=SHORT)
    assert differences(unswitched, switched) == []
    assert all(figures.moved_bytes == 0 for figures in switched.switches)


@pytest.mark.parametrize("name", TIMELINES)
def test_a_stage_is_equal_where_some_migrate_and_others_are_recomputed(engine: LiveEngine, name: str) -> None:
    unswitched = engine.stage(sampling=SHORT, prompts=MIXED_PROMPTS)
    switched = engine.stage(timeline(name, BY_LENGTH), sampling=SHORT, prompts=MIXED_PROMPTS)
    assert differences(unswitched, switched) == []
    assert memory_faults(engine.command("inspect")) == []
    for figures in switched.switches:
        assert mix_faults(figures) == []


def test_seeded_stage_is_equal(engine: LiveEngine) -> None:
    sampling = seeded(temperature=1.0, max_new_tokens=80)
    unswitched = engine.stage(sampling=sampling)
    switched = engine.stage(timeline("over a degree"), sampling=sampling)
    assert differences(unswitched, switched) == []


def test_ranks_of_a_group_sample_equal_tokens_at_every_step(engine: LiveEngine) -> None:
    widenings = [SwitchAt(tokens=t, degree=d) for t, d in ((5, 2), (20, 4), (35, 1), (50, 4), (65, 2))]
    _, tokens = unseeded_tokens(engine, widenings)
    assert split_tokens(tokens) == []
    assert {entry[1] for entry in tokens[3]} == {1, 2, 4}


def test_new_weights_are_right_at_every_degree(
    engine: LiveEngine, model: MakeModel, unswitched: StageResult
) -> None:
    update_weights(engine, model("llama", 2))
    other = engine.stage(sampling=SHORT)
    assert all(a != b for a, b in zip(other.tokens, unswitched.tokens, strict=True))
    for degree in (2, 4):
        engine.settle(degree)
        assert differences(other, engine.stage(sampling=SHORT)) == []
    update_weights(engine, model("llama", 1))
    assert differences(unswitched, engine.stage(sampling=SHORT)) == []
    assert differences(unswitched, engine.stage([SwitchAt(tokens=30, degree=1)], sampling=SHORT)) == []


def test_an_engine_that_is_closed_ends_its_requests(engine: LiveEngine) -> None:
    """The last test here: nobody can use the engine afterwards."""

    async def scenario() -> list[Any]:
        requests = [asyncio.create_task(engine.engine.generate(prompt, GREEDY)) for prompt in PROMPTS]
        await engine.reached(5)
        await engine.engine.close()
        return await asyncio.gather(*requests, return_exceptions=True)

    for outcome in engine.run(scenario()):
        assert isinstance(outcome, EngineDied)
        assert str(outcome) == "the engine was closed"
