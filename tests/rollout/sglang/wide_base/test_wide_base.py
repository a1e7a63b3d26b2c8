"""Four ranks whose base degree is 2: shards lie in bit-reversed order. In the end a rank is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from taper_rollout.sglang.engine import ElasticEngine, EngineDied
from taper_rollout.sglang.engine_settings import EngineSettings

from ..conftest import MakeModel
from ..live_engine import (
    GREEDY,
    PROMPTS,
    LiveEngine,
    StageResult,
    SwitchAt,
    differences,
    memory_faults,
    seeded,
    update_weights,
)

# Weights that are large beside all else that building a stack takes.
LARGE = {"intermediate_size": 8192}
SHORT = GREEDY | {"max_new_tokens": 80}


def settings(model: object, plugin: str) -> EngineSettings:
    return EngineSettings(
        model_path=str(model),
        footprint=4,
        degrees=(2, 4),
        dtype="float32",
        kv_tokens=4096,
        max_running_requests=16,
        context_tokens=1024,
        staging_bytes_per_rank=32 << 20,
        replica_seed=3,
        start_timeout_seconds=300,
        plugins=(plugin,),
    )


@pytest.fixture(scope="module")
def quad(loop: asyncio.AbstractEventLoop, model: MakeModel, rank_plugins: str) -> Iterator[LiveEngine]:
    engine = LiveEngine(loop, settings(model("qwen3", 1, **LARGE), rank_plugins))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def unswitched(quad: LiveEngine) -> StageResult:
    return quad.stage(sampling=SHORT)


def test_greedy_stage_is_equal(quad: LiveEngine, unswitched: StageResult) -> None:
    switches = [SwitchAt(tokens=t, degree=d) for t, d in ((10, 4), (25, 2), (40, 4), (60, 2))]
    switched = quad.stage(switches, sampling=SHORT)
    assert differences(unswitched, switched) == []
    assert memory_faults(quad.command("inspect")) == []
    for figures in switched.switches:
        assert figures.live_requests == len(PROMPTS)
        assert figures.prefilled_tokens <= figures.live_requests


def test_a_wide_stack_takes_no_second_copy_of_the_weights_not_even_for_a_moment(quad: LiveEngine) -> None:
    weight_bytes = quad.command("inspect")[0]["weight_bytes"]
    assert weight_bytes > 40 << 20
    for peaks in quad.call("building_peaks"):
        assert len(peaks["bytes"]) == 1
        assert peaks["bytes"][0] < 0.3 * weight_bytes


def test_seeded_stage_is_equal(quad: LiveEngine) -> None:
    sampling = seeded(temperature=1.0, max_new_tokens=80)
    unswitched = quad.stage(sampling=sampling)
    switches = [SwitchAt(tokens=15, degree=4), SwitchAt(tokens=50, degree=2)]
    assert differences(unswitched, quad.stage(switches, sampling=sampling)) == []


def test_new_weights_reach_every_shard(quad: LiveEngine, model: MakeModel, unswitched: StageResult) -> None:
    update_weights(quad, model("qwen3", 2, **LARGE))
    assert all(a != b for a, b in zip(quad.stage(sampling=SHORT).tokens, unswitched.tokens, strict=True))
    update_weights(quad, model("qwen3", 1, **LARGE))
    assert differences(unswitched, quad.stage(sampling=SHORT)) == []
    quad.settle(4)
    assert differences(unswitched, quad.stage(sampling=SHORT)) == []
    quad.settle(2)


def test_a_rank_that_is_killed_ends_its_requests_and_leaves_nothing(quad: LiveEngine) -> None:
    ranks = [psutil.Process(facts["pid"]) for facts in quad.command("inspect")]
    long = GREEDY | {"max_new_tokens": 600}

    async def scenario() -> tuple[list[Any], float]:
        requests = [asyncio.create_task(quad.engine.generate(p, long)) for p in PROMPTS]
        await quad.reached(20)
        began = time.monotonic()
        os.kill(ranks[3].pid, signal.SIGKILL)
        ended = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 30)
        return ended, time.monotonic() - began

    ended, seconds = quad.run(scenario())
    assert seconds < 10
    for outcome in ended:
        assert isinstance(outcome, EngineDied)
        assert str(outcome) == "rank 3 ended with exit code -9"
    assert quad.engine.fault == "rank 3 ended with exit code -9"
    for work in (quad.engine.generate(PROMPTS[0], long), quad.engine.command("flush")):
        with pytest.raises(EngineDied, match="rank 3"):
            quad.run(work)
    began = time.monotonic()
    quad.close()
    assert time.monotonic() - began < 20
    assert not any(rank.is_running() for rank in ranks)
    quad.close()


def test_a_rank_that_cannot_start_is_reported_with_its_own_error(
    loop: asyncio.AbstractEventLoop, model: MakeModel
) -> None:
    """The other ranks would wait for it: they are ended, too."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    engine = ElasticEngine(settings(model("qwen3", 1, **LARGE), "rank_plugins:fail_in_rank_1"))
    with pytest.raises(EngineDied, match=r"^rank 1: OSError: no room for rank 1$"):
        loop.run_until_complete(engine.start())
    loop.run_until_complete(engine.close())
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert [p.cmdline() for p in left if "resource_tracker" not in " ".join(p.cmdline())] == []
