from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from taper_rollout.sglang.engine_settings import EngineSettings

from ..conftest import MakeModel
from ..live_engine import PROMPTS, LiveEngine, StageResult


@pytest.fixture(scope="package")
def pair(loop: asyncio.AbstractEventLoop, model: MakeModel, rank_plugins: str) -> Iterator[LiveEngine]:
    """Two ranks of Qwen3, degrees 1 and 2, without seeds of its own."""
    engine = LiveEngine(
        loop,
        EngineSettings(
            model_path=str(model("qwen3", 1)),
            footprint=2,
            degrees=(1, 2),
            dtype="float32",
            kv_tokens=8192,
            max_running_requests=32,
            context_tokens=1024,
            staging_bytes_per_rank=64 << 20,
            replica_seed=11,
            collective_timeout_seconds=60,
            plugins=(rank_plugins,),
        ),
    )
    yield engine
    engine.close()


@pytest.fixture
def engine(pair: LiveEngine) -> Iterator[LiveEngine]:
    """The shared engine in its base layout, idle and with empty caches, whole again afterwards."""
    pair.settle(1)
    yield pair
    pair.call("mend")


@pytest.fixture(scope="package")
def unswitched(pair: LiveEngine) -> StageResult:
    """A greedy stage of the engine as it was started."""
    pair.settle(1)
    result = pair.stage()
    assert len({tuple(tokens) for tokens in result.tokens}) == len(PROMPTS)
    return result
