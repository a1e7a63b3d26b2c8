"""A switch that does not happen: the old layout serves on, and no request knows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from taper_rollout.sglang.engine import CommandFailed

from ..live_engine import GREEDY, PROMPTS, LiveEngine, StageResult, differences

DEADLINE_SECONDS = 1.5
LATE_SECONDS = 3.0
BREAKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "leader refuses": ("refuse_switch", {"rank": 0}, "rank 0: not now"),
    "follower refuses": ("refuse_switch", {"rank": 1}, "rank 1: not now"),
    "rank arrives late": (
        "arrive_late",
        {"rank": 1, "seconds": LATE_SECONDS},
        "not every rank arrived in time",
    ),
    "rank finishes late": (
        "finish_late",
        {"rank": 1, "seconds": LATE_SECONDS},
        "recomputed in the old layout",
    ),
}


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("broken", BREAKS)
def test_the_old_layout_serves_on(
    engine: LiveEngine, unswitched: StageResult, broken: str, degree: int
) -> None:
    function, arguments, reason = BREAKS[broken]

    async def scenario() -> list[dict[str, Any]]:
        requests = [asyncio.create_task(engine.engine.generate(p, GREEDY, logprobs=True)) for p in PROMPTS]
        await engine.reached(20)
        began = time.monotonic()
        with pytest.raises(CommandFailed, match=reason):
            await engine.switch(degree, deadline_seconds=DEADLINE_SECONDS)
        assert time.monotonic() - began < LATE_SECONDS + 5
        assert engine.engine.degree == 3 - degree
        await engine.engine.command("call", function="mend")
        await engine.reached(50)
        await engine.switch(degree)
        return list(await asyncio.gather(*requests))

    engine.settle(3 - degree)
    engine.call(function, **arguments)
    result = StageResult(outputs=engine.run(scenario()), switches=[])
    assert differences(unswitched, result) == []
    assert engine.engine.degree == degree
    engine.command("flush")
    for facts in engine.call("cached_tokens"):
        assert all(stack["free"] == stack["slots"] for stack in facts.values())


def test_an_older_epoch_is_dropped(engine: LiveEngine) -> None:
    with pytest.raises(CommandFailed, match="is not newer than"):
        engine.run(engine.engine.switch(2, kv="migrate", epoch=engine.epoch - 1, deadline_seconds=5))
    assert engine.engine.degree == 1
