"""The coordinator over a fake engine: what it asks the policies, and what it reports."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from taper_rollout.events import LedgerEntry, StageProgress
from taper_rollout.ledger.ledger_file import LedgerFile, read_ledger
from taper_rollout.ledger.replayed import replayed
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.shared_memory.rank_record import Step

from ..fake_engine import PROFILE, FakeEngine, Play, ask, records, until


def test_the_predictor_is_asked_and_every_question_is_reported(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.decisions.use(PROFILE)
        requests = [ask(coordinator, name) for name in "abcd"]
        await until(lambda: len(engine.live) == 4)
        for name in "bcd":
            engine.end(name, tokens=2000)
        # One group is idle now, and two ranks decode a single request faster than one.
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a", tokens=31)
        await asyncio.gather(*requests)
        await coordinator.set_global_steps(1)
        entries = [event.entry for event in emitted if isinstance(event, LedgerEntry)]
        assert [entry["entry"] for entry in (entries[0], entries[-2], entries[-1])] == [
            "start",
            "outcome",
            "stage end",
        ]
        [switch] = records(emitted)[0].switches
        [asked] = [e for e in entries if e["entry"] == "question" and e["number"] == switch.question]
        assert asked["choice"]["degree"] == 2
        assert [row[4] for row in asked["snapshot"]["live"]] == [1]
        assert sum(len(entry.get("finished", ())) for entry in entries) == 4
        assert (switch.predicted_gain_seconds or 0) > 0
        assert (switch.predicted_pause_seconds or 0) > 0
        assert json.loads(json.dumps(entries)) == entries

    play(scenario, policy={"name": "predictor"}, response_tokens=4096)


def test_a_lone_request_that_goes_on_is_asked_about_again(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.decisions.use(PROFILE)
        request = ask(coordinator, "a")
        for decoded in (1, 100, 200, 202, 1000, 1001, 2000):
            engine.decoded["a"] = decoded
            await asyncio.sleep(0.1)
        asked = [event.entry for event in emitted if isinstance(event, LedgerEntry)][1:]
        assert [entry["snapshot"]["live"][0][4] for entry in asked] == [1, 200, 1000, 2000]
        engine.end("a")
        await request

    policy = {"name": "predictor", "predictor": {"margin_seconds": 3600.0}}
    play(scenario, policy=policy, response_tokens=4096)


def test_a_stage_begins_in_the_layout_that_was_decided(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        monkeypatch.setattr(coordinator.decisions, "first_degree", lambda: 2)
        requests = [ask(coordinator, name) for name in "ab"]
        await until(lambda: len(engine.live) == 2)
        assert engine.degree == 2
        await asyncio.sleep(0.1)  # for a sample
        engine.abort_all()
        await asyncio.gather(*requests)
        await coordinator.set_global_steps(1)
        assert engine.degree == 1
        [record] = records(emitted)
        assert record.switches == ()
        assert record.batch[0].degree == 2

    play(scenario)


def test_a_stage_is_judged_with_any_policy_and_the_ledger_has_it(play: Play) -> None:
    for policy in ({"name": "threshold", "threshold": {"requests": 1}}, {"name": "predictor"}):

        async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
            coordinator.use(PROFILE)
            requests = [ask(coordinator, name) for name in "ab"]
            await until(lambda: len(engine.live) == 2)
            engine.end("b", tokens=20)
            await until(lambda: engine.degree == 2)
            await asyncio.sleep(0.05)
            engine.end("a", tokens=2000)
            await asyncio.gather(*requests)
            await coordinator.set_global_steps(1)
            [record] = records(emitted)
            assert record.review is not None
            assert record.regret == record.review["regret"]
            assert record.review["executed_seconds"] < record.review["static_seconds"]["1"]
            entries = [event.entry for event in emitted if isinstance(event, LedgerEntry)]
            reviews = [entry["review"] for entry in entries if entry["entry"] == "review"]
            assert reviews == ([record.review] if entries else [])

        play(scenario, policy=policy, response_tokens=4096)


def test_what_a_replica_recorded_is_answered_the_same_again(play: Play, tmp_path: Path) -> None:
    ledger = LedgerFile(tmp_path)

    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.use(PROFILE)
        for step in (1, 2, 3):
            await coordinator.set_global_steps(step)
            requests = [ask(coordinator, f"{step}{name}") for name in "abcd"]
            await until(lambda: len(engine.live) == 4)
            for number, name in enumerate("bcda"):
                await asyncio.sleep(0.05)
                engine.end(f"{step}{name}", tokens=100 * step + 700 * number)
            await asyncio.gather(*requests)
        await coordinator.set_global_steps(4)
        for event in emitted:
            if isinstance(event, LedgerEntry):
                ledger.append(event)

    play(scenario, policy={"name": "predictor"}, response_tokens=4096)
    found = replayed(read_ledger(tmp_path).histories, [])
    assert (found.num_stages, found.differing) == (3, [])
    assert found.num_decisions >= 3 + 2  # a question a stage, and two openings


def test_a_stage_is_reported_also_where_it_looks_like_the_one_before(play: Play) -> None:
    """Each begins with one request and ends with it: nothing changes from event to event but the stage."""

    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        for stage in (1, 2):
            request = ask(coordinator, f"{stage}")
            await until(lambda: engine.live)
            await asyncio.sleep(0.05)
            engine.end(f"{stage}")
            await request
            await coordinator._end_stage()
        assert [event.step for event in emitted if isinstance(event, StageProgress)] == [0, 0]

    play(scenario, mode="off")


def test_only_what_the_groups_of_a_stage_did_corrects_its_profile(play: Play) -> None:
    """Rank 1 follows at TP2, and its steps before the stage took an hour each."""
    slow = Step(degree=2, batch=1, context_tokens=10, seconds=3600.0)
    now = dataclasses.replace(slow, seconds=1.2 * float(PROFILE.steps(2).seconds(1, 10)))

    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.use(PROFILE)
        engine.degree = 2
        first, second = [slow], [slow]
        engine.records[0].new_steps = lambda record: [first.pop()] if first else []
        engine.records[1].new_steps = lambda record: [second.pop()] if second else []
        request = ask(coordinator, "a")
        await until(lambda: not first and not second)
        first += [now] * 100
        second += [slow] * 100
        await until(lambda: not first and not second)
        engine.end("a")
        await request
        await coordinator.set_global_steps(2)
        assert list(coordinator.correction.factors) == [2]
        assert 1.1 < coordinator.correction.factors[2][0] < 1.3

    play(scenario, policy={"name": "predictor"}, mode="off")


def test_without_a_profile_the_predictor_stays(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.decisions.use(None)
        request = ask(coordinator, "a")
        await asyncio.sleep(0.2)
        engine.end("a")
        await request
        assert engine.epochs == []

    play(scenario, policy={"name": "predictor"})


def test_a_list_that_cannot_be_read_puts_the_question_off(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.decisions.use(PROFILE)
        engine.decoded["a"] = 1000
        read = engine.records[0].live
        engine.records[0].live = lambda: None
        request = ask(coordinator, "a")
        await asyncio.sleep(0.2)
        assert engine.epochs == []
        engine.records[0].live = read
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request

    play(scenario, policy={"name": "predictor"}, response_tokens=4096)
