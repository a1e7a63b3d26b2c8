"""A simulated stage takes what its groups take step by step, and loses no token to a switch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.decision import Decision
from taper_policy.simulation.simulator import (
    Policy,
    SimulatedReplica,
    SimulatedRequest,
    SimulatedStage,
    simulate,
)
from taper_policy.simulation.step_clock import StepClock

from ..linear_machine import LinearMachine

PAUSE = 7.0
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=20)


MACHINE = LinearMachine(pause=PAUSE)
CLOCK = StepClock(MACHINE, footprint=4, max_batch=20, max_context=400)


def stay(_: SimulatedReplica) -> Decision | None:
    return None


def run(lengths: list[int], rule: Policy = stay, degree: int = 1) -> SimulatedStage:
    requests = [
        SimulatedRequest(rid=f"r{index}", prompt=f"p{index // 4}", prompt_tokens=10, response_tokens=length)
        for index, length in enumerate(lengths)
    ]
    return simulate(requests, rule, CLOCK, degree=degree)


def stepwise(lengths: list[int], degree: int) -> float:
    """One group, one step at a time: the prefill makes the first token."""
    total = 0.0
    for made in range(1, max(lengths, default=0)):
        batch = sum(length > made for length in lengths)
        seconds = MACHINE.steps(degree).seconds(np.array([float(batch)]), np.array([10 + made + 0.5]), 1)
        total += float(seconds[0])
    return total


@given(LENGTHS, st.sampled_from([1, 2, 4]))
def test_without_a_switch_it_takes_what_the_slowest_group_takes(lengths: list[int], degree: int) -> None:
    num_groups = 4 // degree
    expected = max(stepwise(lengths[group::num_groups], degree) for group in range(num_groups))
    assert run(lengths, degree=degree).seconds == pytest.approx(expected, rel=1e-6)


@given(LENGTHS, st.data())
def test_every_token_is_decoded_once_whatever_the_switches(lengths: list[int], data: st.DataObject) -> None:
    seen: Counter[str] = Counter()
    last: list[int] = []

    def restless(replica: SimulatedReplica) -> Decision:
        for live in replica.live():
            assert 1 <= live.decoded_tokens < lengths[int(live.rid[1:])]
            assert 0 <= live.group < 4 // replica.snapshot.degree
            assert live.decoded_tokens >= seen[live.rid]
            seen[live.rid] = live.decoded_tokens
        assert len(replica.live()) == replica.snapshot.num_running
        last[:] = [len(replica.live()) + len(replica.finished)]
        return Decision(degree=data.draw(st.sampled_from([1, 2, 4])), reason="drawn")

    stage = run(lengths, restless)
    assert last in ([], [len(lengths)])
    total_pause = PAUSE * len(stage.switches)
    assert stage.seconds >= stepwise([max(lengths)], 4) + total_pause - 1e-6
    for before, after in zip(stage.switches, stage.switches[1:], strict=False):
        assert before.to_degree == after.from_degree
        assert after.at_seconds >= before.at_seconds + before.pause_seconds


def test_a_switch_costs_its_pause_and_then_decodes_in_one_group() -> None:
    """Four requests of 5 tokens and one of 50 that shares its group: widened when it is alone."""

    def widen(replica: SimulatedReplica) -> Decision | None:
        return Decision(degree=4, reason="alone") if replica.snapshot.num_running == 1 else None

    stage = run([50, 5, 5, 5], widen)
    (switch,) = stage.switches
    narrow = stepwise([5], 1)
    wide = sum(1 + 2 + 1 + 0.01 * (10 + made + 0.5) for made in range(5, 50))
    assert switch.at_seconds == pytest.approx(narrow)
    assert stage.seconds == pytest.approx(narrow + PAUSE + wide)


def test_naming_the_layout_at_hand_changes_nothing() -> None:
    def keep(replica: SimulatedReplica) -> Decision:
        return Decision(degree=replica.snapshot.degree, reason="stay")

    assert run([9, 30, 4], keep) == run([9, 30, 4])


def test_a_response_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^response_tokens: 0 of r1 is not 1 or more"):
        run([3, 0])
