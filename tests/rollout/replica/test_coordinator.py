"""The coordinator over a fake engine: requests, commands, and what it does when the engine is lost."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from taper_rollout.replica import coordinator as module
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.sglang.engine import EngineDied

from ..fake_engine import FakeEngine, Play, ask, until


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [("stop", "completed"), ("length", "length"), ("abort", "aborted"), ("other", "aborted")],
)
def test_a_response_is_what_the_engine_made(play: Play, reason: str, stop_reason: str) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        request = ask(coordinator, "a", temperature=0.5)
        await until(lambda: engine.live)
        engine.end("a", reason, tokens=3)
        response = await request
        assert (response.token_ids, response.stop_reason) == ([0, 1, 2], stop_reason)
        assert response.log_probs == [-0.5] * 3
        assert engine.sampling == [{"temperature": 0.5}]

    play(scenario)


def test_seeds_are_derived_unless_a_request_brings_its_own(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        requests = [ask(coordinator, "a"), ask(coordinator, "b"), ask(coordinator, "c", sampling_seed=5)]
        await until(lambda: len(engine.live) == 3)
        seeds = [sampling["sampling_seed"] for sampling in engine.sampling]
        assert len(set(seeds)) == 3
        assert seeds[2] == 5
        engine.abort_all()
        await asyncio.gather(*requests)

    play(scenario, sampling={"seed": 3})


def test_a_request_that_does_not_end_after_an_abort_is_an_error(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ABORT_TIMEOUT_SECONDS", 0.2)

    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        engine.aborts_work = False
        request = ask(coordinator, "a")
        await until(lambda: engine.live)
        with pytest.raises(TimeoutError, match="1 requests did not end after an abort"):
            await coordinator.abort_all()
        engine.end("a")
        await request

    play(scenario, mode="off")


def test_a_lost_engine_ends_requests_and_is_unhealthy(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.live)
        engine.fault = "rank 1 ended with exit code -9"  # type: ignore[assignment]
        engine.live["a"].set_exception(EngineDied(engine.fault))
        with pytest.raises(EngineDied, match="rank 1"):
            await request
        host, port = coordinator.address()

        def fetch() -> tuple[int, dict[str, Any]]:
            try:
                urllib.request.urlopen(f"http://{host}:{port}/health", timeout=5)
            except urllib.error.HTTPError as answer:
                return answer.code, json.load(answer)
            return 200, {}

        assert await asyncio.to_thread(fetch) == (503, {"healthy": False})
        assert coordinator._describe()["fault"] == "rank 1 ended with exit code -9"
        assert coordinator._describe()["outstanding"] == 0

    play(scenario)


def test_commands_reach_the_engine(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        await coordinator.clear_kv_cache()
        await coordinator.sleep()
        await coordinator.wake_up(("weights",))
        await coordinator.wake_up(("kv_cache",))
        await coordinator.update_weights(source="m:f", arguments=[{"r": 0}, {"r": 1}])
        given = [
            (name, {k: v for k, v in a.items() if k != "timeout_seconds"}) for name, a in engine.commands
        ]
        assert given == [
            ("flush", {}),
            ("sleep", {"tags": ["kv_cache", "weights"]}),
            ("wake", {"tags": ["weights"]}),
            ("wake", {"tags": ["kv_cache"]}),
            ("update_weights", {"source": "m:f", "arguments": [{"r": 0}, {"r": 1}]}),
        ]

    play(scenario)


def test_a_taken_port_fails_the_start_and_ends_the_engine(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[FakeEngine] = []

    def noted(settings: Any) -> FakeEngine:
        engines.append(FakeEngine(settings))
        return engines[0]

    monkeypatch.setattr(module, "ElasticEngine", noted)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            play(lambda *_: asyncio.sleep(0), port=taken.getsockname()[1])
    assert engines[0].closed
