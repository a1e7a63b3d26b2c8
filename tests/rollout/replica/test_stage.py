"""The record of a stage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from taper_policy.arrays import FloatArray
from taper_policy.decision.pricing import Prices
from taper_rollout.events import BatchSample, RequestRecord, StageRecord, SwitchRecord
from taper_rollout.replica import stage as stage_module
from taper_rollout.replica.stage import Stage, prompt_digest, request_seed
from taper_rollout.switching.figures import MovedRequest


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stage_module, "time", clock)
    return clock


def finish(stage: Stage, name: str, *, prompt_tokens: int = 10, response_tokens: int = 50) -> None:
    record = RequestRecord(
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        finish_reason="length",
        request_id=name,
        prompt="p",
        sample=0,
        started_at=1000.0,
        ended_at=stage_module.time.time(),
    )
    stage.add_request(record, engine_id=name)


def switch(at: float, **changes: Any) -> SwitchRecord:
    fields: dict[str, Any] = {
        "epoch": 1,
        "at": at,
        "from_degree": 1,
        "to_degree": 2,
        "kv": "migrate",
        "outcome": "committed",
        "reason": "a test",
        "live_requests": 1,
        "live_tokens": 30,
        "migrated_requests": 1,
        "recomputed_requests": 0,
        "moved_bytes": 0,
        "prefilled_tokens": 1,
        "pause_seconds": 0.01,
        "parts_seconds": {},
    }
    return SwitchRecord(**(fields | changes))


class BatchPrices:
    """Seconds of a step in the layout of degree 1, by batch; NaN for any other step."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._seconds = seconds

    def steps(self, degree: int) -> BatchPrices:
        return BatchPrices(self._seconds if degree == 1 else {})

    def seconds(self, batch: FloatArray, context_tokens: FloatArray, busy_groups: int) -> FloatArray:
        found: FloatArray = np.vectorize(lambda one: self._seconds.get(int(one), math.nan))(batch)
        return found

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: FloatArray, context_tokens: FloatArray
    ) -> FloatArray:
        raise AssertionError("staying has no pause")


def recorded(stage: Stage, prices: Prices | None = None) -> StageRecord:
    return stage.record(0, 7, prices)


def test_samples_of_a_prompt_are_counted() -> None:
    stage = Stage(2, 1)
    assert [stage.next_sample(name) for name in "aabab"] == [0, 1, 0, 2, 1]


def test_seeds_are_a_function_of_job_step_prompt_and_sample() -> None:
    base = request_seed(1, 2, prompt_digest([3, 4]), 0)
    assert base == request_seed(1, 2, prompt_digest([3, 4]), 0)
    others = [
        request_seed(2, 2, prompt_digest([3, 4]), 0),
        request_seed(1, 3, prompt_digest([3, 4]), 0),
        request_seed(1, 2, prompt_digest([34]), 0),
        request_seed(1, 2, prompt_digest([3, 4]), 1),
    ]
    assert len({base, *others}) == 5
    assert all(0 <= seed < 1 << 63 for seed in (base, *others))


def test_only_changes_are_kept(clock: Clock) -> None:
    stage = Stage(2, 1)
    for at, running in ((1.0, (2, 2)), (2.0, (2, 2)), (3.0, (2, 1)), (4.0, (2, 1)), (5.0, (2, 2))):
        stage.observe(BatchSample(at=at, running=running, waiting=0, degree=1), longest_tokens=int(at))
    finish(stage, "a")
    assert [sample.at for sample in recorded(stage).batch] == [1.0, 3.0, 5.0]
    assert stage.longest_tokens == 5


def test_idle_rank_seconds_count_ranks_of_groups_with_nothing_to_do(clock: Clock) -> None:
    stage = Stage(4, 1)
    stage.observe(BatchSample(at=1001.0, running=(3, 1, 2, 1), waiting=0, degree=1), longest_tokens=0)
    stage.observe(BatchSample(at=1004.0, running=(3, 0, 2, 0), waiting=0, degree=1), longest_tokens=0)
    stage.observe(BatchSample(at=1006.0, running=(3, 0), waiting=0, degree=2), longest_tokens=0)
    stage.observe(BatchSample(at=1010.0, running=(3,), waiting=0, degree=4), longest_tokens=0)
    clock.now = 1020.0
    finish(stage, "a")
    assert recorded(stage).idle_rank_seconds == pytest.approx(2 * 2.0 + 2 * 4.0)


def test_a_stage_ends_with_its_last_response(clock: Clock) -> None:
    stage = Stage(2, 1)
    clock.now = 1005.0
    finish(stage, "a")
    clock.now = 1009.0
    finish(stage, "b")
    record = recorded(stage)
    assert (record.started_at, record.ended_at, record.generation_seconds) == (1000.0, 1009.0, 9.0)
    assert (record.replica, record.step, record.num_ranks) == (0, 7, 2)
    assert [request.ended_at for request in record.requests] == [1005.0, 1009.0]


def test_a_switchs_gain_is_what_staying_would_have_taken_less_what_it_took(clock: Clock) -> None:
    """One request, 30 KV tokens of which 10 are the prompt's: 21 tokens made, 79 of 100 to go."""
    stage = Stage(2, 1)
    stage.add_switch(switch(1002.0), requests=[MovedRequest("a", 0, 30, 0)])
    clock.now = 1010.0
    finish(stage, "a", prompt_tokens=10, response_tokens=100)
    [record] = recorded(stage, BatchPrices({1: 0.2})).switches
    assert record.actual_seconds == pytest.approx(8.0)
    assert record.staying_seconds == pytest.approx(79 * 0.2)
    assert record.gain_seconds == pytest.approx(79 * 0.2 - 8.0)


def test_groups_would_have_gone_on_side_by_side(clock: Clock) -> None:
    stage = Stage(2, 1)
    stage.add_switch(
        switch(1002.0, live_requests=3),
        requests=[MovedRequest("a", 0, 30, 0), MovedRequest("b", 0, 0, 0), MovedRequest("c", 1, 20, 0)],
    )
    clock.now = 1010.0
    finish(stage, "a", response_tokens=41)
    finish(stage, "b", response_tokens=20)
    finish(stage, "c", response_tokens=21)
    [record] = recorded(stage, BatchPrices({1: 0.1, 2: 0.3})).switches
    assert record.staying_seconds == pytest.approx(20 * 0.3)


@pytest.mark.parametrize(
    ("changes", "requests"),
    [({"outcome": "aborted"}, [MovedRequest("a", 0, 30, 0)]), ({"outcome": "refused"}, []), ({}, [])],
)
def test_a_switch_that_moved_nothing_has_no_gain(
    clock: Clock, changes: dict[str, str], requests: list[list[Any]]
) -> None:
    stage = Stage(2, 1)
    stage.add_switch(switch(1002.0, **changes), requests=requests)
    finish(stage, "a")
    [record] = recorded(stage, BatchPrices({1: 0.2})).switches
    assert (record.staying_seconds, record.gain_seconds) == (None, None)


def test_without_a_profile_there_is_no_gain(clock: Clock) -> None:
    stage = Stage(2, 1)
    stage.add_switch(switch(1002.0), requests=[MovedRequest("a", 0, 30, 0)])
    clock.now = 1010.0
    finish(stage, "a")
    [record] = recorded(stage).switches
    assert (record.actual_seconds, record.staying_seconds, record.gain_seconds) == (8.0, None, None)


def test_a_stage_too_short_to_be_observed_has_a_record(clock: Clock) -> None:
    stage = Stage(2, 1)
    finish(stage, "a")
    assert recorded(stage).batch == ()
    assert recorded(stage).idle_rank_seconds == 0.0
