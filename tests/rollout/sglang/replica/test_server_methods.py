"""What VeRL does to a server has its observable effect."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import psutil
import pytest

from taper_policy.decision.decision import Decision
from taper_rollout.events import StageRecord

from ..conftest import MakeModel
from .conftest import GREEDY, RANDOM, Replica, long_tail

TO_WIDE = Decision(degree=2, reason="a test")
LONG: dict[str, Any] = RANDOM | {"max_new_tokens": 700}
TOKEN_BYTES = 2 * 4 * 4 * 32 * 4  # K and V of 4 layers, 4 heads of 32, float32


def get(replica: Replica, path: str) -> tuple[int, dict[str, Any]]:
    host, port = replica.coordinator.address()
    assert (host, port > 0) == ("127.0.0.1", True)

    def fetch() -> tuple[int, dict[str, Any]]:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)

    result: tuple[int, dict[str, Any]] = replica.run(asyncio.to_thread(fetch))
    return result


def resident(replica: Replica) -> list[int]:
    processes = replica.coordinator._engine._sglang.processes
    return [psutil.Process(process.pid).memory_info().rss for process in processes]


def test_sleep_frees_the_arena_and_a_woken_replica_is_right(replica: Replica) -> None:
    requests = [GREEDY | {"prompt": [5 + i, 6, 7, 8], "max_new_tokens": 250} for i in range(64)]
    replica.configure(mode="off")
    before, _ = replica.stage(requests)
    awake = resident(replica)
    replica.run(replica.coordinator.sleep())
    asleep = resident(replica)
    held = 64 // 2 * 250 * TOKEN_BYTES
    for one, two in zip(awake, asleep, strict=True):
        assert one - two > 0.8 * held
    assert get(replica, "/state")[1]["asleep"]
    replica.run(replica.coordinator.wake_up())
    assert not get(replica, "/state")[1]["asleep"]
    after, _ = replica.stage(requests)
    assert [r.token_ids for r in before] == [r.token_ids for r in after]


def test_requests_of_a_sleeping_replica_wait_for_its_kv_cache(replica: Replica) -> None:
    async def scenario() -> list[int]:
        coordinator = replica.coordinator
        await coordinator.sleep()
        request = asyncio.create_task(replica.generate(long_tail(RANDOM)[:1]))
        await coordinator.wake_up(("weights",))
        await asyncio.sleep(0.3)
        assert not request.done()
        await coordinator.wake_up(("kv_cache",))
        [response] = await request
        return response.token_ids

    assert len(replica.run(scenario())) == 10


def test_sleep_and_new_weights_are_refused_while_requests_are_served(replica: Replica) -> None:
    async def scenario() -> None:
        request = asyncio.create_task(replica.generate([LONG | {"prompt": [5, 6]}]))
        await replica.decoding(5)
        for work in (
            replica.coordinator.sleep(),
            replica.coordinator.update_weights(source="rank_plugins:weights_of", arguments=[]),
        ):
            with pytest.raises(RuntimeError, match="1 requests are still being served: abort them first"):
                await work
        await replica.coordinator.abort_all()
        await request

    replica.run(scenario())


def test_an_abort_ends_requests_with_what_they_have_and_holds_new_ones(replica: Replica) -> None:
    async def scenario() -> None:
        coordinator = replica.coordinator
        requests = asyncio.create_task(replica.generate([LONG | {"prompt": [5 + i, 6]} for i in range(4)]))
        await replica.decoding(20)
        await coordinator.abort_all()
        for response in await requests:
            assert response.stop_reason == "aborted"
            assert 0 < len(response.token_ids) < 700
            assert response.log_probs is not None
            assert len(response.log_probs) == len(response.token_ids)
        held = asyncio.create_task(replica.generate(long_tail(RANDOM)[:1]))
        await asyncio.sleep(0.3)
        assert not held.done()
        await coordinator.resume_generation()
        [response] = await held
        assert response.stop_reason == "length"

    replica.run(scenario())
    [aborted] = [e for e in replica.events if isinstance(e, StageRecord)]
    assert {r.finish_reason for r in aborted.requests} == {"aborted"}


def test_a_rejecting_replica_answers_at_once(replica: Replica) -> None:
    async def scenario() -> None:
        await replica.coordinator.abort_all(reject=True)
        [response] = await asyncio.wait_for(replica.generate(long_tail(RANDOM)[:1]), 1)
        assert (response.token_ids, response.log_probs, response.stop_reason) == ([], [], "aborted")
        await replica.coordinator.resume_generation()
        [response] = await replica.generate(long_tail(RANDOM)[:1])
        assert response.stop_reason == "length"

    replica.run(scenario())


def test_an_abort_in_the_middle_of_a_switch_ends_all_requests(replica: Replica) -> None:
    async def scenario() -> None:
        coordinator = replica.coordinator
        requests = asyncio.create_task(replica.generate([LONG | {"prompt": [5 + i, 6]} for i in range(6)]))
        await replica.decoding(20)
        switch = asyncio.create_task(
            coordinator._switcher.switch(TO_WIDE, stage=coordinator._stages.present, step=0)
        )
        await asyncio.sleep(0)
        await asyncio.wait_for(coordinator.abort_all(), 10)
        assert {response.stop_reason for response in await requests} == {"aborted"}
        await asyncio.wait_for(switch, 10)
        await coordinator.resume_generation()
        [response] = await replica.generate(long_tail(RANDOM)[:1])
        assert response.stop_reason == "length"

    replica.configure(mode="off")
    replica.run(scenario())


def test_clearing_the_kv_cache_drops_every_prefix(replica: Replica) -> None:
    requests = [GREEDY | {"prompt": list(range(start, start + 60)), "max_new_tokens": 5} for start in (5, 70)]

    def prefilled() -> int:
        """Tokens that are prefilled for two prompts of 60 tokens, one in each group."""
        replica.run(replica.quiet())
        before = [reader.read().prefilled_tokens_total for reader in replica.coordinator._engine.records]
        replica.stage(requests)
        replica.run(replica.quiet())
        after = [reader.read().prefilled_tokens_total for reader in replica.coordinator._engine.records]
        return sum(after) - sum(before)

    replica.configure(mode="off")
    replica.run(replica.coordinator.clear_kv_cache())
    assert [prefilled(), prefilled()] == [120, 2]
    replica.run(replica.coordinator.clear_kv_cache())
    assert prefilled() == 120


def test_new_weights_change_the_responses_in_every_layout(replica: Replica, model: MakeModel) -> None:
    def update(seed: int) -> None:
        arguments = [{"path": str(model("llama", seed))}] * 2
        coordinator = replica.coordinator
        replica.run(coordinator.update_weights(source="rank_plugins:weights_of", arguments=arguments))

    before, _ = replica.stage(long_tail(GREEDY))
    update(2)
    between, record = replica.stage(long_tail(GREEDY))
    replica.configure(mode="off")
    narrow, _ = replica.stage(long_tail(GREEDY))
    update(1)
    after, _ = replica.stage(long_tail(GREEDY))
    assert record.switches
    assert all(a.token_ids != b.token_ids for a, b in zip(before, between, strict=True))
    assert [r.token_ids for r in between] == [r.token_ids for r in narrow]
    assert [r.token_ids for r in before] == [r.token_ids for r in after]


def test_the_address_answers(replica: Replica) -> None:
    assert get(replica, "/health") == (200, {"healthy": True})
    replica.run(replica.coordinator.set_global_steps(33))
    status, state = get(replica, "/state")
    assert status == 200
    assert (state["replica"], state["step"], state["outstanding"]) == (3, 33, 0)
    assert (state["degree"], state["state"], state["fault"]) == (1, "serving", None)
