"""Requests that arrive, end or are aborted around a switch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from taper_rollout.sglang.engine import CommandFailed

from ..live_engine import GREEDY, PROMPTS, LiveEngine, StageResult, SwitchAt, differences

IDLE_SECONDS = 3.0


def core_seconds(rank: psutil.Process) -> float:
    """Seconds on a core, user and system, of all threads of a rank but gloo's.

    gloo has a thread for each of SGLang's process groups, which wakes a hundred times a second:
    together 3 % of a core on a quiet machine and more on a slow one, whatever the rank does.
    """
    return sum(
        thread.user_time + thread.system_time
        for thread in rank.threads()
        if Path(f"/proc/{rank.pid}/task/{thread.id}/comm").read_text().strip() != "gloo_tcp_loop"
    )


def start(engine: LiveEngine, prompts: list[list[int]]) -> list[asyncio.Task[dict[str, Any]]]:
    return [asyncio.create_task(engine.engine.generate(p, GREEDY, logprobs=True)) for p in prompts]


@pytest.mark.parametrize("degree", [1, 2])
def test_arrivals_during_a_switch_and_after_it_are_served(
    engine: LiveEngine, unswitched: StageResult, degree: int
) -> None:
    async def scenario() -> list[dict[str, Any]]:
        requests = start(engine, PROMPTS[:3])
        await engine.reached(20)
        switch = asyncio.create_task(engine.switch(degree))
        await asyncio.sleep(0)
        requests += start(engine, PROMPTS[3:5])
        figures = await switch
        assert figures.live_requests == 3
        requests += start(engine, PROMPTS[5:])
        return list(await asyncio.gather(*requests))

    engine.settle(3 - degree)
    result = StageResult(outputs=engine.run(scenario()), switches=[])
    assert differences(unswitched, result) == []
    assert engine.engine.degree == degree


def test_a_switch_with_requests_still_waiting_is_exact(engine: LiveEngine) -> None:
    """More requests than the narrow stacks run at once: some have no KV when the layout changes."""
    prompts = [[*range(3 + index, 9 + index), index] for index in range(70)]
    sampling = GREEDY | {"max_new_tokens": 24}
    unswitched = engine.stage(sampling=sampling, prompts=prompts)
    switches = [SwitchAt(tokens=4, degree=2), SwitchAt(tokens=12, degree=1)]
    switched = engine.stage(switches, sampling=sampling, prompts=prompts)
    assert switched.switches[0].live_requests == 70
    assert differences(unswitched, switched) == []


@pytest.mark.parametrize("degree", [1, 2])
def test_an_abort_in_the_middle_of_a_switch_ends_all_requests(
    engine: LiveEngine, unswitched: StageResult, degree: int
) -> None:
    async def scenario() -> list[dict[str, Any]]:
        requests = start(engine, PROMPTS)
        await engine.reached(10)
        switch = asyncio.create_task(
            engine.engine.switch(degree, kv="migrate", epoch=epoch, deadline_seconds=20)
        )
        await asyncio.sleep(0)
        engine.engine.abort_all()
        ended = await asyncio.wait_for(asyncio.gather(*requests), 10)
        figures = await switch
        # Requests that will never be re-admitted must not be waited for.
        await asyncio.wait_for(engine.engine.resumed(figures, deadline_seconds=20), 5)
        return list(ended)

    engine.settle(3 - degree)
    engine.epoch += 1
    epoch = engine.epoch
    for output, tokens in zip(engine.run(scenario()), unswitched.tokens, strict=True):
        assert output["meta_info"]["finish_reason"]["type"] == "abort"
        assert 0 < len(output["output_ids"]) < len(tokens)
        assert tokens[: len(output["output_ids"])] == output["output_ids"]
        assert len(output["meta_info"]["output_token_logprobs"]) == len(output["output_ids"])
    assert engine.engine.degree == degree
    engine.command("flush")
    for facts in engine.call("cached_tokens"):
        assert all(stack["free"] == stack["slots"] for stack in facts.values())
    assert differences(unswitched, engine.stage()) == []


def test_a_flush_while_live_changes_no_response(engine: LiveEngine, unswitched: StageResult) -> None:
    async def scenario() -> list[dict[str, Any]]:
        requests = start(engine, PROMPTS)
        await engine.reached(25)
        await engine.engine.command("flush")
        await engine.switch(2)
        await engine.reached(60)
        await engine.engine.command("flush")
        return list(await asyncio.gather(*requests))

    assert differences(unswitched, StageResult(outputs=engine.run(scenario()), switches=[])) == []


def test_a_drained_engine_has_all_its_slots_and_rows(engine: LiveEngine) -> None:
    before = engine.call("cached_tokens")
    engine.stage([SwitchAt(tokens=20, degree=2), SwitchAt(tokens=40, degree=1)])
    engine.command("flush")
    assert engine.call("cached_tokens") == before
    assert all(stack["free"] == stack["slots"] for stack in before[0].values())


def test_an_idle_engine_leaves_the_cores_alone(engine: LiveEngine) -> None:
    ranks = [psutil.Process(facts["pid"]) for facts in engine.command("inspect")]
    for degree in (1, 2):
        engine.settle(degree)
        engine.run(asyncio.sleep(0.5))
        before = [core_seconds(rank) for rank in ranks]
        engine.run(asyncio.sleep(IDLE_SECONDS))
        used = [core_seconds(rank) - b for rank, b in zip(ranks, before, strict=True)]
        assert max(used) < 0.05 * IDLE_SECONDS, f"degree {degree}: {used}"


def test_an_unknown_command_is_refused(engine: LiveEngine) -> None:
    with pytest.raises(CommandFailed, match="dance"):
        engine.command("dance")
    engine.stage(prompts=PROMPTS[:1])


@pytest.mark.parametrize(("degree", "reason"), [(1, "already at degree 1"), (4, "degree 4 was not built")])
def test_a_switch_to_nowhere_is_refused(engine: LiveEngine, degree: int, reason: str) -> None:
    with pytest.raises(CommandFailed, match=reason):
        engine.run(engine.switch(degree))
    assert engine.engine.degree == 1
    engine.stage(prompts=PROMPTS[:1])


@pytest.mark.parametrize("degree", [1, 2])
def test_commands_that_are_given_at_once_are_all_obeyed(engine: LiveEngine, degree: int) -> None:
    async def scenario() -> list[list[dict[str, Any]]]:
        commands = (engine.engine.command(name, timeout_seconds=20) for name in ("flush", "inspect", "flush"))
        return list(await asyncio.gather(*commands))

    engine.settle(degree)
    answers = engine.run(scenario())
    assert [len(answer) for answer in answers] == [2, 2, 2]
    assert "weight_bytes" in answers[1][0]
