"""The events of a coordinator are what the metrics understand."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from taper_rollout.events import StageRecord, SwitchDone
from taper_rollout.metrics.collector import RolloutMetrics
from taper_rollout.replica import coordinator as module
from taper_rollout.replica import progress_throttle, stage_keeper
from taper_rollout.replica.coordinator import Coordinator

from ..fake_engine import SETTINGS, FakeEngine, ask, until
from ..metrics.test_collector import value

WAY = {"from_degree": 1, "to_degree": 2, "kv": "migrate"}
BACK = WAY | {"from_degree": 2, "to_degree": 1}


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The events of a stage of two requests that switches once and narrows when it has drained."""
    monkeypatch.setattr(module, "ElasticEngine", FakeEngine)
    monkeypatch.setattr(module, "engine_settings", lambda _: None)
    monkeypatch.setattr(stage_keeper, "ARRIVALS_SETTLED_SECONDS", 0.02)
    monkeypatch.setattr(progress_throttle, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress_throttle, "MOST_SECONDS", 0.0)
    emitted: list[Any] = []

    async def stage() -> None:
        coordinator = Coordinator(SETTINGS, emitted.append)
        engine: Any = coordinator._engine
        await coordinator.start()
        try:
            await coordinator.set_global_steps(7)
            requests = [ask(coordinator, "a"), ask(coordinator, "b")]
            await until(lambda: engine.degree == 2)
            await asyncio.sleep(0.05)
            for name in ("a", "b"):
                engine.end(name, tokens=3)
            await asyncio.gather(*requests)
            await until(lambda: engine.degree == 1)
            await coordinator.set_global_steps(8)
        finally:
            await coordinator.close()

    asyncio.run(asyncio.wait_for(stage(), 20))
    return emitted


def travelled(event: Any) -> Any:
    """As Ray passes it on to another process."""
    return pickle.loads(pickle.dumps(event))


def test_a_stage_that_was_reported_is_counted(emitted: list[Any]) -> None:
    metrics = RolloutMetrics()
    running = set()
    for event in emitted:
        metrics.record(travelled(event))
        running.add(value(metrics, "taper_running_requests"))
    assert 2.0 in running
    assert value(metrics, "taper_running_requests") == 0
    assert value(metrics, "taper_switches_total", outcome="committed", **WAY) == 1
    assert value(metrics, "taper_pause_seconds_sum", **WAY) == pytest.approx(0.02)
    assert value(metrics, "taper_switches_total", outcome="committed", **BACK) == 1
    assert value(metrics, "taper_layout_degree") == 1
    assert value(metrics, "taper_recomputed_tokens_total") == 1
    assert value(metrics, "taper_responses_total") == 2
    assert value(metrics, "taper_response_tokens_total") == 6
    assert value(metrics, "taper_generation_step") == 7
    assert value(metrics, "taper_footprint_ranks") == 2


def test_a_switch_is_seen_before_its_stage_ends_and_counted_once(emitted: list[Any]) -> None:
    (stage,) = [event for event in emitted if isinstance(event, StageRecord)]
    done = [event for event in emitted if isinstance(event, SwitchDone)]
    assert [event.switch.to_degree for event in done] == [2, 1]
    assert emitted.index(done[0]) < emitted.index(stage)
    metrics = RolloutMetrics()
    metrics.record(travelled(done[0]))
    assert value(metrics, "taper_layout_degree") == 2
    assert value(metrics, "taper_pause_seconds_sum", **WAY) == pytest.approx(0.02)
    metrics.record(travelled(stage))
    assert value(metrics, "taper_switches_total", outcome="committed", **WAY) == 1
