"""The coordinator over a fake engine: when it switches, and what it does when a switch fails."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import Any

import pytest

from taper_rollout.events import SwitchDone
from taper_rollout.metrics.collector import RolloutMetrics
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.sglang.engine import CommandFailed, EngineDied
from taper_rollout.switching.states import SwitchEvent

from ..fake_engine import FORWARD, PROFILE, FakeEngine, Play, ask, records, until
from ..metrics.test_collector import value


def test_a_switch_chooses_by_the_profiles_costs(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        coordinator.use(PROFILE)
        engine.changed_figures = {"migrated_requests": 2, "recomputed_requests": 1}
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.modes[0] == PROFILE.kv_costs(1, 2)
        [switch] = records(emitted)[0].switches
        assert (switch.kv, switch.migrated_requests, switch.recomputed_requests) == ("mixed", 2, 1)

    play(scenario, switch={"kv": "auto", "timeout_seconds": 3.0})


def test_a_switch_without_a_profile_migrates(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.modes[0] == "migrate"
        assert records(emitted)[0].switches[0].kv == "migrate"

    play(scenario, switch={"kv": "auto", "timeout_seconds": 3.0})


def test_a_switch_that_fails_three_times_is_given_up_for_the_stage(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        engine.switch_fails = lambda: CommandFailed("switch: rank 1: not now")
        request = ask(coordinator, "a")
        await until(lambda: len(engine.epochs) == 3)
        await asyncio.sleep(0.2)
        assert engine.epochs == [1, 2, 3]
        assert coordinator._describe()["state"] == "serving"
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        [record] = records(emitted)
        assert [(switch.outcome, switch.cause) for switch in record.switches] == [("refused", "refused")] * 3
        assert all("rank 1: not now" in switch.reason for switch in record.switches)
        assert all((s.from_degree, s.to_degree, s.gain_seconds) == (1, 2, None) for s in record.switches)
        engine.switch_fails = lambda: None
        request = ask(coordinator, "b")
        await until(lambda: engine.degree == 2)
        engine.end("b")
        await request

    play(scenario)


def test_a_failed_switch_is_tried_again(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        failures = iter([CommandFailed("not now")])
        engine.switch_fails = lambda: next(failures, None)
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await until(lambda: engine.degree == 1)
        await coordinator.set_global_steps(1)
        assert [s.outcome for s in records(emitted)[0].switches] == ["refused", "committed"]
        done = [event.switch for event in emitted if isinstance(event, SwitchDone)]
        assert [(s.to_degree, s.outcome) for s in done] == [
            (2, "refused"),
            (2, "committed"),
            (1, "committed"),
        ]

    play(scenario)


def test_a_switch_under_way_at_the_end_of_a_stage_is_of_that_stage(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
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
        assert [(s.to_degree, s.outcome) for s in records(emitted)[0].switches] == [(2, "committed")]
        assert engine.degree == 1

    play(scenario)


def test_a_switch_whose_requests_do_not_resume_in_time_is_recorded_without_a_pause(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        engine.resumes = False
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        assert coordinator._describe()["state"] == "committed"
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        [switch] = records(emitted)[0].switches
        assert (switch.outcome, switch.cause, switch.pause_seconds) == ("committed", None, 0.0)
        assert (switch.transitions[-1].event, switch.transitions[-1].state) == ("timeout", "serving")
        assert engine.degree == 1, "the next switch is made"

    play(scenario, switch={"kv": "migrate", "timeout_seconds": 0.3})


async def state(coordinator: Coordinator) -> dict[str, Any]:
    """The answer to `GET /state`."""
    host, port = coordinator.address()

    def fetch() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{host}:{port}/state", timeout=5) as answer:
            answered: dict[str, Any] = json.load(answer)
            return answered

    return await asyncio.to_thread(fetch)


def test_each_state_is_seen_while_it_lasts(play: Play) -> None:
    """One rank after the other goes from state to state; the replica is where the slower one is."""

    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        seen: list[tuple[str, list[str]]] = []

        async def look() -> None:
            answer = await state(coordinator)
            seen.append((answer["state"], answer["rank_states"]))

        async def slowly() -> None:
            await look()
            for event in (SwitchEvent.ALL_AGREED, SwitchEvent.PLAN_MATCHED):
                for rank in engine.ranks:
                    rank.apply(event)
                    await look()

        engine.switching, engine.events_left = slowly, (SwitchEvent.ALL_DONE,)
        request = ask(coordinator, "a")
        await until(lambda: any(isinstance(event, SwitchDone) for event in emitted))
        engine.switching, engine.events_left = lambda: asyncio.sleep(0), FORWARD
        assert seen == [
            ("prepared", ["prepared", "prepared"]),
            ("prepared", ["quiesced", "prepared"]),
            ("quiesced", ["quiesced", "quiesced"]),
            ("quiesced", ["transferring", "quiesced"]),
            ("transferring", ["transferring", "transferring"]),
        ]
        assert (await state(coordinator))["state"] == "serving"
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        [switch] = records(emitted)[0].switches
        assert [(one.event, one.state) for one in switch.transitions] == [
            ("proposed", "prepared"),
            ("all agreed", "quiesced"),
            ("plan matched", "transferring"),
            ("all done", "committed"),
            ("resumed", "serving"),
        ]
        times = [one.at for one in switch.transitions]
        assert times == sorted(times)
        assert switch.at - 1 < times[0] and times[-1] < time.time() + 1

    play(scenario)


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (SwitchEvent.REFUSED, "refused"),
        (SwitchEvent.TIMEOUT, "aborted"),
        (SwitchEvent.FAULT, "aborted"),
    ],
)
def test_a_switch_that_is_not_made_is_recorded_with_its_cause(
    play: Play, event: SwitchEvent, outcome: str
) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        failures = iter([CommandFailed("not now")])
        engine.switch_fails, engine.aborted_by = lambda: next(failures, None), event
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        first, second = records(emitted)[0].switches
        assert (first.outcome, first.cause) == (outcome, event.value)
        assert [one.state for one in first.transitions] == ["prepared", "aborted", "serving"]
        assert (second.outcome, second.cause) == ("committed", None)
        metrics = RolloutMetrics()
        for done in emitted:
            if isinstance(done, SwitchDone):
                metrics.record(done)
        assert (
            value(metrics, "taper_switches_total", from_degree=1, to_degree=2, kv="migrate", outcome=outcome)
            == 1
        )

    play(scenario)


def test_an_engine_that_dies_in_a_switch_leaves_it_aborted(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        def die() -> Exception:
            engine.fault = "rank 1 ended with exit code -9"
            return EngineDied(engine.fault)

        async def never() -> None:
            raise die()

        engine.switching = never
        request = ask(coordinator, "a")
        await until(lambda: any(isinstance(event, SwitchDone) for event in emitted))
        answer = await state(coordinator)
        assert (answer["state"], answer["healthy"]) == ("aborted", False)
        [done] = [event.switch for event in emitted if isinstance(event, SwitchDone)]
        assert (done.outcome, done.cause) == ("aborted", "fault")
        assert "rank 1 ended" in done.reason
        await asyncio.sleep(0.1)
        assert engine.epochs == [1], "no further switch is proposed"
        engine.end("a")
        await request

    play(scenario)


@pytest.mark.parametrize("mode", ["off", "advise"])
def test_only_enforce_switches(play: Play, mode: str) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        request = ask(coordinator, "a")
        await asyncio.sleep(0.3)
        engine.end("a")
        await request
        assert engine.epochs == []

    play(scenario, mode=mode)


def test_watching_goes_on_after_a_fault_of_its_own(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        faults = iter([OSError("torn record")])
        observe = coordinator._stages._observe

        def observe_or_fail(*arguments: Any, **options: Any) -> Any:
            if error := next(faults, None):
                raise error
            return observe(*arguments, **options)

        monkeypatch.setattr(coordinator._stages, "_observe", observe_or_fail)
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request

    play(scenario)


def test_new_weights_bring_the_base_layout_back_first(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: FakeEngine, emitted: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await coordinator.update_weights(source="m:f", arguments=[{}, {}])
        assert engine.degree == 1
        assert len(records(emitted)) == 1

    play(scenario)
