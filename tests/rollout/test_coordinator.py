"""The coordinator over an engine in name only: what it does when things go wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taper_policy.estimated import h100_8b
from taper_policy.kv_choice import KvWay
from taper_policy.profile import Profile
from taper_rollout import coordinator as module
from taper_rollout.coordinator import Coordinator, ReplicaSettings
from taper_rollout.events import LedgerEntry, StageRecord, SwitchDone, as_json
from taper_rollout.records import LiveRecord, RankRecord
from taper_rollout.report.ledger_file import LedgerFile, read_ledger
from taper_rollout.report.replayed import replayed
from taper_rollout.sglang.engine import CommandFailed, EngineDied

SETTINGS = ReplicaSettings(
    model_path="none",
    dtype="float32",
    footprint=2,
    degrees=(1, 2),
    mode="enforce",
    policy={"name": "threshold", "threshold": {"requests": 4}},
    kv="migrate",
    switch_timeout_seconds=3.0,
    seed=None,
    kv_tokens=100,
    max_running_requests=8,
    context_tokens=64,
    response_tokens=32,
    trust_remote_code=False,
    device="cpu",
    replica=0,
    random_seed=1,
    host="127.0.0.1",
    calibrate=False,
)


def two_of_eight() -> Profile:
    """Two ranks of the estimated eight: one with both ranks is faster, and a switch costs next to nothing."""
    whole, degrees = h100_8b(), (1, 2)
    cells = [c for c in whole.cells if c.degree in degrees and c.busy_groups <= 2 // c.degree]
    return dataclasses.replace(
        whole,
        footprint=2,
        degrees=degrees,
        cells=tuple(cells),
        prefill={degree: whole.prefill[degree] for degree in degrees},
        switch={pair: whole.switch[pair] for pair in ((1, 2), (2, 1))},
    )


PROFILE = two_of_eight()


class NamedEngine:
    """Serves requests until a test ends them, and notes orders."""

    def __init__(self, _: Any) -> None:
        self.degree, self.fault, self.closed = 1, None, False
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.live: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.sampling: list[dict[str, Any]] = []
        self.switch_fails: Callable[[], Exception | None] = lambda: None
        self.switching: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0.01)
        self.resumes = True
        self.epochs: list[int] = []
        self.ways: list[KvWay] = []
        self.became: dict[str, int] = {}
        self.aborts_work = True
        self.records = [
            SimpleNamespace(
                read=functools.partial(self._read, rank),
                new_steps=list,
                live=functools.partial(self._listed, rank),
            )
            for rank in range(2)
        ]
        self.numbers: dict[str, int] = {}
        self.decoded: dict[str, int] = {}

    def _read(self, rank: int) -> RankRecord:
        return RankRecord(
            at=0.0,
            epoch=0,
            degree=self.degree,
            running=len(self._listed(rank)),
            waiting=0,
            listed=0,
            longest_tokens=max((one.decoded_tokens for one in self._listed(rank)), default=0),
            decoded_tokens_total=0,
            prefilled_tokens_total=0,
            finished_total=0,
            step_seconds=0.0,
            steps_total=0,
        )

    def _listed(self, rank: int) -> list[LiveRecord]:
        """Of two groups the requests are dealt in turn; one group has them all."""
        mine = list(self.live)[rank::2] if self.degree == 1 else list(self.live)
        return [
            LiveRecord(number=self.numbers[name], decoded_tokens=self.decoded.get(name, 1)) for name in mine
        ]

    def next_number(self) -> int:
        return len(self.numbers) + 1

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def generate(self, prompt: list[int], sampling: dict[str, Any], **options: Any) -> dict[str, Any]:
        name = str(options["request_id"])
        self.sampling.append(sampling)
        self.numbers[name] = options["number"]
        self.live[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.live[name]
        finally:
            del self.live[name]

    def end(self, name: str, reason: str = "stop", tokens: int = 3) -> None:
        meta = {
            "id": f"1-{name}",
            "finish_reason": {"type": reason},
            "output_token_logprobs": [(-0.5, 1, None)] * (tokens + 1),
        }
        self.live[name].set_result({"output_ids": list(range(tokens)), "meta_info": meta})

    def abort_all(self) -> None:
        for name, future in list(self.live.items()):
            if self.aborts_work and not future.done():
                self.end(name, "abort")

    async def command(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        self.orders.append((name, arguments))
        return [{}, {}]

    async def switch(self, degree: int, *, kv: KvWay, epoch: int, deadline_seconds: float) -> dict[str, Any]:
        self.epochs.append(epoch)
        self.ways.append(kv)
        await self.switching()
        if error := self.switch_fails():
            raise error
        self.degree = degree
        live = [[f"1-{name}", 0, 5, 0] for name in self.live]
        return {
            "requests": live,
            "live_requests": len(live),
            "live_tokens": 5 * len(live),
            "migrated_requests": len(live),
            "recomputed_requests": 0,
            "parts": {},
        } | self.became

    async def resumed(self, *, deadline_seconds: float) -> dict[str, Any]:
        if not self.resumes:
            raise TimeoutError("command resumed: no answer from ranks [0, 1]")
        return {"pause_seconds": 0.02, "prefilled_tokens": 1}


Scenario = Callable[[Coordinator, NamedEngine, list[Any]], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario with a started coordinator, its engine, and what it tells."""
    monkeypatch.setattr(module, "ElasticEngine", NamedEngine)
    monkeypatch.setattr(module, "engine_settings", lambda _: None)
    monkeypatch.setattr(module, "ARRIVALS_SETTLED_SECONDS", 0.02)

    def played(scenario: Scenario, **changes: Any) -> None:
        async def whole() -> None:
            told: list[Any] = []
            coordinator = Coordinator(dataclasses.replace(SETTINGS, **changes), told.append)
            await coordinator.start()
            try:
                await asyncio.wait_for(scenario(coordinator, coordinator._engine, told), 20)
            finally:
                await coordinator.close()
            assert coordinator._engine.closed

        asyncio.run(whole())

    return played


def ask(coordinator: Coordinator, name: str, **sampling: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(
        coordinator.generate(request_id=name, prompt_ids=[1, 2], sampling=sampling, logprobs=True)
    )


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def records(told: list[Any]) -> list[StageRecord]:
    return [event for event in told if isinstance(event, StageRecord)]


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [("stop", "completed"), ("length", "length"), ("abort", "aborted"), ("other", "aborted")],
)
def test_a_response_is_what_the_engine_made(play: Play, reason: str, stop_reason: str) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a", temperature=0.5)
        await until(lambda: engine.live)
        engine.end("a", reason, tokens=3)
        response = await request
        assert (response.token_ids, response.stop_reason) == ([0, 1, 2], stop_reason)
        assert response.log_probs == [-0.5] * 3
        assert engine.sampling == [{"temperature": 0.5}]

    play(scenario)


def test_seeds_are_derived_unless_a_request_brings_its_own(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        requests = [ask(coordinator, "a"), ask(coordinator, "b"), ask(coordinator, "c", sampling_seed=5)]
        await until(lambda: len(engine.live) == 3)
        seeds = [sampling["sampling_seed"] for sampling in engine.sampling]
        assert len(set(seeds)) == 3
        assert seeds[2] == 5
        engine.abort_all()
        await asyncio.gather(*requests)

    play(scenario, seed=3)


def test_a_switch_chooses_by_the_profiles_costs(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        coordinator.use(two_of_eight())
        engine.became = {"migrated_requests": 2, "recomputed_requests": 1}
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.ways[0] == two_of_eight().kv_costs(1, 2)
        [switch] = records(told)[0].switches
        assert (switch.kv, switch.migrated_requests, switch.recomputed_requests) == ("mixed", 2, 1)

    play(scenario, kv="auto")


def test_a_switch_without_a_profile_migrates(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        engine.end("a")
        await request
        await coordinator.set_global_steps(1)
        assert engine.ways[0] == "migrate"
        assert records(told)[0].switches[0].kv == "migrate"

    play(scenario, kv="auto")


def test_a_switch_that_fails_three_times_is_given_up_for_the_stage(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await asyncio.sleep(0.3)
        engine.end("a")
        await request
        assert engine.epochs == []

    play(scenario, mode=mode)


def test_watching_goes_on_after_a_fault_of_its_own(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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


def test_a_request_that_does_not_end_after_an_abort_is_an_error(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ABORT_TIMEOUT_SECONDS", 0.2)

    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        engine.aborts_work = False
        request = ask(coordinator, "a")
        await until(lambda: engine.live)
        with pytest.raises(TimeoutError, match="1 requests did not end after an abort"):
            await coordinator.abort_all()
        engine.end("a")
        await request

    play(scenario, mode="off")


def test_a_lost_engine_ends_requests_and_is_unhealthy(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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


def test_orders_reach_the_engine(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        await coordinator.clear_kv_cache()
        await coordinator.sleep()
        await coordinator.wake_up(("weights",))
        await coordinator.wake_up(("kv_cache",))
        await coordinator.update_weights(source="m:f", arguments=[{"r": 0}, {"r": 1}], version=4)
        given = [(name, {k: v for k, v in a.items() if k != "timeout_seconds"}) for name, a in engine.orders]
        assert given == [
            ("flush", {}),
            ("sleep", {"tags": ["kv_cache", "weights"]}),
            ("wake", {"tags": ["weights"]}),
            ("wake", {"tags": ["kv_cache"]}),
            ("update_weights", {"source": "m:f", "arguments": [{"r": 0}, {"r": 1}], "version": 4}),
        ]

    play(scenario)


def test_new_weights_bring_the_base_layout_back_first(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        request = ask(coordinator, "a")
        await until(lambda: engine.degree == 2)
        await asyncio.sleep(0.05)
        engine.end("a")
        await request
        await coordinator.update_weights(source="m:f", arguments=[{}, {}], version=1)
        assert engine.degree == 1
        assert len(records(told)) == 1

    play(scenario)


def test_a_taken_port_fails_the_start_and_ends_the_engine(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[NamedEngine] = []

    def noted(settings: Any) -> NamedEngine:
        engines.append(NamedEngine(settings))
        return engines[0]

    monkeypatch.setattr(module, "ElasticEngine", noted)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            play(lambda *_: asyncio.sleep(0), port=taken.getsockname()[1])
    assert engines[0].closed


def test_the_predictor_is_asked_and_every_question_is_told(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
        entries = [event.entry for event in told if isinstance(event, LedgerEntry)]
        assert [entry["entry"] for entry in (entries[0], entries[-2], entries[-1])] == [
            "start",
            "outcome",
            "stage end",
        ]
        [switch] = records(told)[0].switches
        [asked] = [e for e in entries if e["entry"] == "question" and e["number"] == switch.question]
        assert asked["choice"]["degree"] == 2
        assert [row[4] for row in asked["snapshot"]["live"]] == [1]
        assert sum(len(entry.get("finished", ())) for entry in entries) == 4
        assert (switch.predicted_gain_seconds or 0) > 0
        assert (switch.predicted_pause_seconds or 0) > 0
        assert json.loads(json.dumps(entries)) == entries

    play(scenario, policy={"name": "predictor"}, response_tokens=4096)


def test_a_lone_request_that_goes_on_is_asked_about_again(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        coordinator.decisions.use(PROFILE)
        request = ask(coordinator, "a")
        for decoded in (1, 100, 200, 202, 1000, 1001, 2000):
            engine.decoded["a"] = decoded
            await asyncio.sleep(0.1)
        asked = [event.entry for event in told if isinstance(event, LedgerEntry)][1:]
        assert [entry["snapshot"]["live"][0][4] for entry in asked] == [1, 200, 1000, 2000]
        engine.end("a")
        await request

    play(scenario, policy={"name": "predictor", "predictor": {"margin_seconds": 1e6}}, response_tokens=4096)


def test_a_stage_begins_in_the_layout_that_was_decided(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        monkeypatch.setattr(coordinator.decisions, "first_degree", lambda: 2)
        requests = [ask(coordinator, name) for name in "ab"]
        await until(lambda: len(engine.live) == 2)
        assert engine.degree == 2
        await asyncio.sleep(0.1)  # for a sample
        engine.abort_all()
        await asyncio.gather(*requests)
        await coordinator.set_global_steps(1)
        assert engine.degree == 1
        [record] = records(told)
        assert record.switches == ()
        assert record.batch[0].degree == 2

    play(scenario)


def test_a_stage_is_judged_with_any_policy_and_the_ledger_has_it(play: Play) -> None:
    for policy in ({"name": "threshold", "threshold": {"requests": 1}}, {"name": "predictor"}):

        async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
            coordinator.use(PROFILE)
            requests = [ask(coordinator, name) for name in "ab"]
            await until(lambda: len(engine.live) == 2)
            engine.end("b", tokens=20)
            await until(lambda: engine.degree == 2)
            await asyncio.sleep(0.05)
            engine.end("a", tokens=2000)
            await asyncio.gather(*requests)
            await coordinator.set_global_steps(1)
            [record] = records(told)
            assert record.review is not None
            assert record.regret == record.review["regret"]
            assert record.review["executed_seconds"] < record.review["static_seconds"]["1"]
            entries = [event.entry for event in told if isinstance(event, LedgerEntry)]
            reviews = [entry["review"] for entry in entries if entry["entry"] == "review"]
            assert reviews == ([record.review] if entries else [])

        play(scenario, policy=policy, response_tokens=4096)


def test_what_a_replica_told_is_answered_the_same_again(play: Play, tmp_path: Path) -> None:
    ledger = LedgerFile(tmp_path)

    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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
        for event in told:
            if isinstance(event, LedgerEntry):
                ledger.append(json.loads(json.dumps(as_json(event))))

    play(scenario, policy={"name": "predictor"}, response_tokens=4096)
    found = replayed(read_ledger(tmp_path).lives, [])
    assert (found.num_stages, found.differing) == (3, [])
    assert found.num_decisions >= 3 + 2  # a question a stage, and two openings


def test_without_a_profile_the_predictor_stays(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
        coordinator.decisions.use(None)
        request = ask(coordinator, "a")
        await asyncio.sleep(0.2)
        engine.end("a")
        await request
        assert engine.epochs == []

    play(scenario, policy={"name": "predictor"})


def test_a_list_that_cannot_be_read_puts_the_question_off(play: Play) -> None:
    async def scenario(coordinator: Coordinator, engine: NamedEngine, told: list[Any]) -> None:
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


def test_a_policy_that_is_none_is_refused_with_its_path() -> None:
    settings = dataclasses.replace(SETTINGS, policy={"name": "luck"})
    with pytest.raises(
        ValueError, match=r"^actor_rollout_ref\.rollout\.custom\.policy\.name: 'luck' is no policy"
    ):
        Coordinator(settings, print)
