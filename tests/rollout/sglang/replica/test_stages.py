"""A replica switches its live engine in the tail of a stage, reports it, and goes back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from taper_policy.decision.decision import Decision
from taper_policy.decision.ledger import DecisionEntry, ReviewEntry, StageEndEntry, SwitchOutcomeEntry
from taper_policy.review.replica_history import replica_histories, same_choice
from taper_rollout.events import StageProgress, StageRecord, SwitchDone
from taper_rollout.profiling.calibration import calibration_of
from taper_rollout.replica.coordinator import Generated
from taper_rollout.replica.stage import prompt_digest

from ...fake_engine import PROFILE
from .conftest import GREEDY, RANDOM, Replica, long_tail

SCHEDULE = {
    "name": "schedule",
    "schedule": [{"tokens": 20, "degree": 2}, {"tokens": 60, "degree": 1}, {"tokens": 100, "degree": 2}],
}


def tokens(responses: list[Generated]) -> list[list[int]]:
    return [response.token_ids for response in responses]


def log_probs(responses: list[Generated]) -> list[float]:
    values = []
    for response in responses:
        assert response.log_probs is not None
        assert len(response.log_probs) == len(response.token_ids)
        values += response.log_probs
    return values


def test_a_calibration_has_a_step_of_each_layout(llama: Replica) -> None:
    assert llama.profile is not None
    table = calibration_of(llama.profile, llama.base).step_seconds
    assert {entry.degree for entry in table} == {1, 2}
    assert {entry.batch for entry in table} >= {1, 4}
    assert all(0 < entry.seconds < 5 for entry in table)


def test_the_tail_is_decoded_wide_and_the_stage_is_reported(replica: Replica) -> None:
    began = time.time()
    responses, record = replica.stage(long_tail(RANDOM), step=4)
    assert (record.replica, record.step, record.num_ranks) == (3, 4, 2)
    assert began <= record.started_at < record.ended_at <= time.time()

    [switch] = record.switches
    assert (switch.from_degree, switch.to_degree, switch.outcome, switch.kv) == (1, 2, "committed", "migrate")
    assert switch.live_requests == 2
    assert "threshold 2" in switch.reason
    assert switch.prefilled_tokens <= 2
    assert 2 * 24 < switch.live_tokens < 2 * 224
    half_token_bytes = 2 * 4 * 2 * 32 * 4  # K and V, 4 layers, 2 of 4 heads, head dimension, float32
    assert switch.moved_bytes == switch.live_tokens * half_token_bytes
    assert 0 < switch.pause_seconds < record.ended_at - switch.at
    assert set(switch.parts_seconds) >= {"offer", "quiesce", "agree", "drain", "requests", "kv"}
    assert switch.staying_seconds is not None
    assert switch.gain_seconds == pytest.approx(switch.staying_seconds - switch.actual_seconds)

    assert sorted(r.request_id for r in record.requests) == sorted(f"request-{i}" for i in range(10))
    by_id = {r.request_id: r for r in record.requests}
    for index, response in enumerate(responses):
        recorded = by_id[f"request-{index}"]
        assert (recorded.response_tokens, recorded.finish_reason) == (len(response.token_ids), "length")
        assert (recorded.prompt, recorded.prompt_tokens) == (prompt_digest([5 + index // 2, 6, 7, 8]), 4)
        assert record.started_at <= recorded.started_at < recorded.ended_at <= record.ended_at
    assert sorted((r.prompt, r.sample) for r in record.requests) == sorted(
        (prompt_digest([5 + prompt, 6, 7, 8]), sample) for prompt in range(5) for sample in range(2)
    )

    assert {sample.degree for sample in record.batch} == {1, 2}
    assert 2 < max(sum(sample.running) for sample in record.batch) <= 10
    assert all(len(sample.running) == 2 // sample.degree for sample in record.batch)
    assert [s.at for s in record.batch] == sorted(s.at for s in record.batch)
    assert 0 <= record.idle_rank_seconds <= 2 * (record.ended_at - record.started_at)
    assert all(response.stop_reason == "length" for response in responses)


def test_progress_is_reported_while_a_stage_runs(replica: Replica) -> None:
    replica.stage(long_tail(RANDOM))
    progress = [event for event in replica.events if isinstance(event, StageProgress)]
    assert progress
    assert {event.num_ranks for event in progress} == {2}
    assert all(0 <= event.running <= 10 for event in progress)


def test_a_new_step_begins_in_the_base_layout(replica: Replica) -> None:
    async def scenario() -> tuple[int, int]:
        await replica.coordinator.set_global_steps(50)
        await replica.generate(long_tail(RANDOM))
        degree = replica.coordinator._engine.degree
        await replica.coordinator.set_global_steps(51)
        return degree, replica.coordinator._engine.degree

    assert replica.run(scenario()) == (2, 1)


def test_the_layout_is_narrow_again_when_a_stage_has_drained(replica: Replica) -> None:
    async def scenario() -> int:
        await replica.generate(long_tail(RANDOM))
        degree = replica.coordinator._engine.degree
        await replica.at_degree(1)
        return degree

    assert replica.run(scenario()) == 2


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "seeded"])
def test_responses_are_equal_with_and_without_switches(replica: Replica, sampling: dict[str, object]) -> None:
    replica.configure(mode="off")
    unswitched, record = replica.stage(long_tail(sampling), step=9)
    assert record.switches == ()
    replica.configure(policy=SCHEDULE)
    for kv in ("migrate", "recompute"):
        replica.configure(policy=SCHEDULE, switch={"kv": kv, "timeout_seconds": 20.0})
        switched, record = replica.stage(long_tail(sampling), step=9)
        assert [s.to_degree for s in record.switches] == [2, 1, 2]
        assert {(s.outcome, s.kv) for s in record.switches} == {("committed", kv)}
        assert tokens(switched) == tokens(unswitched)
        assert log_probs(switched) == pytest.approx(log_probs(unswitched), abs=1e-4)


def test_seeds_depend_on_the_step_and_the_sample(replica: Replica) -> None:
    requests = [RANDOM | {"prompt": [5, 6, 7, 8], "max_new_tokens": 30} for _ in range(8)]
    first, _ = replica.stage(requests, step=1)
    again, _ = replica.stage(requests, step=1)
    later, _ = replica.stage(requests, step=2)
    assert tokens(first) == tokens(again)
    assert len({tuple(ids) for ids in tokens(first) + tokens(later)}) == 16


def test_advice_is_reported_and_not_followed(replica: Replica) -> None:
    replica.configure(mode="advise")
    _, record = replica.stage(long_tail(RANDOM))
    assert [(s.outcome, s.to_degree) for s in record.switches] == [("advised", 2)]
    assert {sample.degree for sample in record.batch} == {1}


@pytest.mark.parametrize(
    ("degree", "timeout_seconds", "outcome", "cause"),
    [(4, 20.0, "refused", "refused"), (2, 0.0001, "aborted", "timeout")],
    ids=["no such layout", "no time"],
)
def test_a_switch_that_is_not_made_is_recorded_with_its_cause(
    replica: Replica, degree: int, timeout_seconds: float, outcome: str, cause: str
) -> None:
    coordinator = replica.coordinator
    replica.configure(mode="off", switch={"kv": "migrate", "timeout_seconds": timeout_seconds})

    async def scenario() -> list[Generated]:
        requests = asyncio.create_task(replica.generate(long_tail(RANDOM)))
        await replica.decoding(20)
        decision = Decision(degree=degree, reason="a test")
        await coordinator._switcher.switch(decision, stage=coordinator._stages.present, step=0)
        made = await requests
        await coordinator._end_stage()
        return made

    responses = replica.run(scenario())
    assert [len(ids) for ids in tokens(responses)] == [one["max_new_tokens"] for one in long_tail(RANDOM)]
    [done] = [event.switch for event in replica.events if isinstance(event, SwitchDone)]
    assert (done.outcome, done.cause) == (outcome, cause)
    assert [one.state for one in done.transitions] == ["prepared", "aborted", "serving"]
    assert coordinator._describe()["state"] == "serving"
    assert coordinator._engine.degree == 1


def test_a_new_step_ends_the_stage_before(replica: Replica) -> None:
    async def scenario() -> None:
        for step in (20, 21):
            await replica.coordinator.set_global_steps(step)
            await replica.generate(long_tail(RANDOM)[:3])
        await replica.coordinator.set_global_steps(-1)

    replica.run(scenario())
    records = [event for event in replica.events if isinstance(event, StageRecord)]
    assert [(record.step, len(record.requests)) for record in records] == [(20, 3), (21, 3)]


def test_the_predictor_switches_and_its_ledger_gives_the_same_again(replica: Replica) -> None:
    """By a profile in which two ranks are much faster than one, whatever they are here."""
    replica.events.clear()
    replica.configure(PROFILE, policy={"name": "predictor"})
    started = replica.ledger()
    entries = []
    for _ in range(2):
        _, record = replica.stage(long_tail(RANDOM))
        entries += replica.ledger()
        assert record.review is not None and record.regret == record.review["regret"]
        assert record.review["actual_seconds"] == record.ended_at - record.started_at
    [history] = replica_histories([(3, entry) for entry in [*started, *entries]])
    switched = [stage for stage in history.stages() if stage.outcomes]
    assert switched
    for stage in history.stages():
        assert stage.has_ended and stage.review is not None
    [outcome, *_] = switched[0].outcomes.values()
    assert outcome.switch["outcome"] == "committed"
    assert outcome.switch["predicted_gain_seconds"] > 0 and outcome.switch["gain_seconds"] is not None
    kinds = [type(entry) for entry in entries]
    assert (
        kinds.count(StageEndEntry) == kinds.count(ReviewEntry) == 2 and kinds.count(SwitchOutcomeEntry) >= 1
    )
    questions = [entry for entry in entries if isinstance(entry, DecisionEntry)]
    assert (
        sum(len(entry.finished) for entry in entries if isinstance(entry, DecisionEntry | StageEndEntry))
        == 20
    )
    again = list(history.decided_again())
    assert len(again) >= len(questions) > 0
    assert all(same_choice(recorded.choice, now.choice) for recorded, now in again)


@pytest.mark.parametrize("mode", ["enforce", "advise"])
def test_a_stage_is_judged_by_the_profile_that_was_measured(replica: Replica, mode: str) -> None:
    replica.configure(mode=mode, policy={"name": "predictor"})
    _, record = replica.stage(long_tail(RANDOM))
    assert record.review is not None
    assert set(record.review["static_seconds"]) == {"1", "2"}
    assert 0 < record.review["best_seconds"] <= record.review["executed_seconds"]
    assert ("advised" in record.review) == (mode == "advise")


def test_requests_are_recorded_with_the_group_that_served_them(replica: Replica) -> None:
    """Ten requests are dealt to two groups in turn."""
    replica.configure(mode="off")
    groups: list[int | None] = []
    generate = replica.coordinator._engine.generate

    async def noted(*arguments: Any, **options: Any) -> Any:
        output = await generate(*arguments, **options)
        groups.append(output["group"])
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica.coordinator._engine, "generate", noted)
        replica.stage(long_tail(RANDOM))
    assert sorted(groups) == [0] * 5 + [1] * 5
