"""The decode step of each layout, measured at the start on the engine that will serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from taper_policy.step_times import StepTimes
from taper_rollout.replica_settings import ReplicaSettings
from taper_rollout.sglang.engine import ElasticEngine

BATCHES = (1, 4)
TOKENS = 20
TIMEOUT_SECONDS = 120.0


async def calibrate(
    engine: ElasticEngine,
    step_times: StepTimes,
    switch: Callable[[int, str], Awaitable[None]],
    settings: ReplicaSettings,
) -> dict[str, Any]:
    """Measure one group at batch 1 and 4 in each layout; the others are idle, as in a tail.

    Fills `step_times` and returns the event that tells the run about it.
    """
    base = settings.degrees[0]
    for degree in settings.degrees:
        await switch(degree, "calibration")
        for batch in BATCHES:
            await _measure(engine, step_times, batch)
    await switch(base, "calibration")
    await engine.command("flush")
    return {
        "kind": "Calibration",
        "replica": settings.replica,
        "step_seconds": step_times.table().as_json(),
    }


async def _measure(engine: ElasticEngine, step_times: StepTimes, batch: int) -> None:
    sampling = {"temperature": 0.0, "max_new_tokens": TOKENS, "ignore_eos": True}
    for reader in engine.records:
        reader.new_steps()
    with engine.pinned_to_group(0):
        requests = [engine.generate([1 + index, 2, 3, 4], sampling) for index in range(batch)]
        await asyncio.wait_for(asyncio.gather(*requests), TIMEOUT_SECONDS)
    for step in engine.records[0].new_steps():
        if step.batch == batch:
            step_times.add(step.degree, step.batch, step.seconds)
