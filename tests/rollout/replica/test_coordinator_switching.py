"""The coordinator over an engine in name only: when it switches, and what it does when a switch fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.replica.events import SwitchDone
from taper_rollout.sglang.engine import CommandFailed

from ..fake_engine import PROFILE, FakeEngine, Play, ask, records, until


def test_a_switch_chooses_by_the_profiles_costs(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        coordinator.use(PROFILE)
        engine.became = {"migrated_requests": 2, "recomputed_requests": 1}
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.ways[0] == PROFILE.kv_costs(1, 2)
        [switch] = records(told)[0].switches
        assert (switch.kv, switch.migrated_requests, switch.recomputed_requests) == ("mixed", 2, 1)

    play(scenario, switch={"kv": "auto", "timeout_seconds": 3.0})


def test_a_switch_without_a_profile_migrates(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.ways[0] == "migrate"
        assert records(told)[0].switches[0].kv == "migrate"

    play(scenario, switch={"kv": "auto", "timeout_seconds": 3.0})


def test_a_switch_that_fails_three_times_is_given_up_for_the_stage(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        engine.switch_fails = lambda: CommandFailed("switch: rank 1: not now")
        request = ask(coordinator, "a")
        await until(lambda: len(engine.epochs) == 3)
        await asyncio.sleep(0.2)
        assert engine.epochs == [1, 2, 3]
        assert coordinator._describe()["state"] == "serving"
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        [record] = records(told)
        assert [switch.outcome for switch in record.switches] == ["aborted"] * 3
        assert all("rank 1: not now" in switch.reason for switch in record.switches)
        assert all((s.from_degree, s.to_degree, s.gain_seconds) == (1, 2, None) for s in record.switches)
        engine.switch_fails = lambda: None
        request = ask(coordinator, "b")
        await until(lambda: engine.degree == 2)
        engine.end("b")
        await request

    play(scenario)


def test_a_failed_switch_is_tried_again(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        failures = iter([CommandFailed("not now")])
        engine.switch_fails = lambda: next(failures, None)
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await until(lambda: engine.degree == 1)
        await coordinator.set_global_steps(1)
        assert [s.outcome for s in records(told)[0].switches] == ["aborted", "committed"]
        done = [event.switch for event in told if isinstance(event, SwitchDone)]
        assert [(s.to_degree, s.outcome) for s in done] == [
            (2, "aborted"),
            (2, "committed"),
            (1, "committed"),
        ]

    play(scenario)


def test_a_switch_under_way_at_the_end_of_a_stage_is_of_that_stage(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        may_switch = asyncio.Event()
        engine.switching = may_switch.wait
        request = ask(coordinator, "a")
        await until(lambda: engine.epochs == [1])
        engine.end("a")
        await request
        next_step = asyncio.create_task(coordinator.set_global_steps(1))
        await asyncio.sleep(0.05)
        assert not next_step.done()
        may_switch.set()
        await next_step
        assert [(s.to_degree, s.outcome) for s in records(told)[0].switches] == [(2, "committed")]
        assert engine.degree == 1

    play(scenario)


def test_a_switch_whose_pause_is_not_told_is_on_record(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        engine.resumes = False
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert [(s.outcome, s.pause_seconds) for s in records(told)[0].switches] == [("committed", 0.0)]

    play(scenario)


@pytest.mark.parametrize("mode", ["off", "advise"])
def test_only_enforce_switches(play: Play, mode: str) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await asyncio.sleep(0.3)
        engine.end("a")
        await request
        assert engine.epochs == []

    play(scenario, mode=mode)


def test_watching_goes_on_after_a_fault_of_its_own(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        faults = iter([OSError("torn record")])
        observe = coordinator._observe

        def observe_or_fail(stage: Any) -> Any:
            if error := next(faults, None):
                raise error
            return observe(stage)

        monkeypatch.setattr(coordinator, "_observe", observe_or_fail)
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request

    play(scenario)


def test_new_weights_bring_the_base_layout_back_first(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await coordinator.update_weights(source="m:f", arguments=[{}, {}], version=1)
        assert engine.degree == 1
        assert len(records(told)) == 1

    play(scenario)
