"""A stage is judged against every plan; what was played comes out as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.decision import Decision
from taper_policy.review.review import (
    RecordedRequest,
    RecordedStage,
    RecordedSwitch,
    as_simulated,
    review,
)
from taper_policy.simulation.simulator import SimulatedReplica, SimulatedStage, clock_of, simulate

from ...examples import examples
from ..linear_machine import LinearMachine

DEGREES = (1, 2, 4)
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=16)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPrices(LinearMachine):
    """A prefill takes a second and a tenth of one for each token."""

    def prefill_seconds(self, degree: int, tokens: float) -> float:
        return 1.0 + tokens / 10


MACHINE = ReplicaPrices(pause=20.0, pause_request=1.0)


def played(
    lengths: Sequence[int],
    groups: Sequence[int] | None = None,
    *,
    degree: int = 1,
    moves: tuple[RecordedSwitch, ...] = (),
    longer: int = 0,
) -> RecordedStage:
    """Each prompt has `longer` tokens more than the one before it."""
    dealt = groups or [index % (4 // degree) for index in range(len(lengths))]
    requests = tuple(
        RecordedRequest(
            rid=f"{index:012}",
            prompt=f"p{index // 2}",
            prompt_tokens=10 + longer * index,
            response_tokens=length,
            group=group,
        )
        for index, (length, group) in enumerate(zip(lengths, dealt, strict=False))
    )
    return RecordedStage(
        footprint=4, degree=degree, seconds=100.0, prefilled_tokens=20, requests=requests, moves=moves
    )


def widened(
    lengths: Sequence[int], *at: tuple[int, int], longer: int = 0
) -> tuple[RecordedStage, SimulatedStage]:
    """A stage that widens to each degree once so few are live, as played and as simulated."""
    stage = played(lengths, longer=longer)
    requests = as_simulated(stage)
    moves: list[RecordedSwitch] = []

    def rule(replica: SimulatedReplica) -> Decision | None:
        degree, running = replica.snapshot.degree, replica.live()
        due = [degree for live, degree in at if len(running) <= live]
        if not due or due[-1] <= degree:
            return None
        made = sum(one.decoded_tokens for one in running)
        made += sum(request.response_tokens for request in replica.finished)
        groups = {one.rid: one.group * degree // due[-1] for one in running}
        moves.append(RecordedSwitch(degree=due[-1], made_tokens=made, groups=groups))
        return Decision(degree=due[-1], reason="a test")

    clock = clock_of([requests], MACHINE, footprint=4)
    simulated = simulate(requests, rule, clock, degree=1)
    return dataclasses.replace(stage, moves=tuple(moves)), simulated


@examples(25)
@given(LENGTHS, st.integers(1, 16), st.integers(1, 16))
def test_no_plan_is_faster_than_the_best(lengths: list[int], early: int, late: int) -> None:
    stage, _ = widened(lengths, (early, 2), (late, 4))
    found = review(stage, MACHINE, DEGREES)
    assert found.best_seconds <= min(found.executed_seconds, *found.static_seconds.values())
    assert found.regret >= 0
    for degree in DEGREES:
        assert review(played(lengths, degree=degree), MACHINE, DEGREES).regret >= 0


@examples(25)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), min_size=1, max_size=16))
def test_without_a_switch_it_is_its_static_layout(rows: list[tuple[int, int]]) -> None:
    lengths, groups = zip(*rows, strict=True)
    for degree in DEGREES:
        stage = played(lengths, [group // degree for group in groups], degree=degree)
        found = review(stage, MACHINE, DEGREES)
        assert found.executed_seconds == found.static_seconds[degree]
        assert found.best_seconds <= found.executed_seconds


@examples(25)
@given(LENGTHS, st.randoms(use_true_random=False), st.integers(1, 16))
def test_blind_to_the_order_of_requests_and_to_the_names_of_groups(
    lengths: list[int], random: object, live: int
) -> None:
    # Where two groups end a step at the same moment, the tokens made do not show which of them was first.
    stage, _ = widened(lengths, (live, 4), longer=7)
    shuffled, names = list(stage.requests), [0, 1, 2, 3]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    random.shuffle(names)  # type: ignore[attr-defined]
    other = dataclasses.replace(
        stage,
        requests=tuple(dataclasses.replace(request, group=names[request.group]) for request in shuffled),
    )
    one, two = review(stage, MACHINE, DEGREES).as_json(), review(other, MACHINE, DEGREES).as_json()
    static = one.pop("static_seconds"), two.pop("static_seconds")
    assert static[0] == pytest.approx(static[1])
    # Of plans that take the same, rounding decides which is named.
    del one["best_plan"], two["best_plan"]
    assert one == pytest.approx(two, abs=1e-9)


@examples(40)
@given(LENGTHS, st.integers(1, 16), st.integers(1, 16))
def test_a_simulated_stage_takes_what_it_took(lengths: list[int], early: int, late: int) -> None:
    stage, simulated = widened(lengths, (early, 2), (late, 4))
    found = review(stage, MACHINE, DEGREES)
    # Between two ends a moment is found to a small share of what lies between, then rounded up to a step.
    assert found.executed_seconds == pytest.approx(simulated.seconds, rel=0.01)


def test_a_narrowing_is_followed_to_the_recorded_groups() -> None:
    """Two requests at degree 4; after 10 tokens, one of them by prefill, each goes on alone for 20 more."""
    flat = ReplicaPrices(fixed=1.0, shared=0.0, request=1.0, token=0.0, pause=5.0)
    groups = {f"{0:012}": 0, f"{1:012}": 3}
    stage = played(
        [30, 30], [0, 0], degree=4, moves=(RecordedSwitch(degree=1, made_tokens=20, groups=groups),)
    )
    assert review(stage, flat, DEGREES).executed_seconds == pytest.approx(9 * 3.0 + 5.0 + 20 * 2.0)


def test_responses_of_one_token_take_no_step_under_any_plan() -> None:
    found = review(played([1, 1, 1]), MACHINE, DEGREES)
    assert (found.executed_seconds, found.best_seconds) == (0.0, 0.0)
    assert (found.regret, found.gain_over_best_static) == (0.0, 0.0)


def test_a_review_reports_prefill_seconds_model_error_and_gain() -> None:
    """A prefill takes a second, and another one for each ten of its 20 tokens."""
    stage = played([20, 20, 20], [0, 1, 0])
    found = review(stage, MACHINE, DEGREES)
    assert found.prefill_seconds == pytest.approx(1.0 + 20 / 10)
    assert found.model_error == pytest.approx(100.0 / (found.executed_seconds + 3.0) - 1.0)
    assert found.gain_over_best_static == pytest.approx(
        1.0 - found.executed_seconds / min(found.static_seconds.values())
    )


def test_a_plan_that_the_search_does_not_know_can_be_the_best() -> None:
    """A lone straggler had a group of its own from the start, which dealing in turn does not give."""
    lengths = [300] + [20] * 15
    stage = played(
        lengths,
        [0] + [1, 2, 3] * 5,
        moves=(RecordedSwitch(degree=4, made_tokens=15 * 20 + 27, groups={f"{0:012}": 0}),),
    )
    found = review(stage, MACHINE, DEGREES)
    assert (found.best_plan, found.regret) == ("as it ran", 0.0)


def test_a_straggler_that_nobody_widened_for_is_regretted() -> None:
    found = review(played([20] * 15 + [300]), MACHINE, DEGREES)
    assert found.best_plan == "degree 1, degree 4 at 1 live"
    assert found.regret > 0.3
    right, _ = widened([20] * 15 + [300], (1, 4))
    assert review(right, MACHINE, DEGREES).regret == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("lengths", "message"), [((), "a stage without any"), ((5, 0), "is not 1 or more")])
def test_what_is_no_stage_is_refused(lengths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        review(played(lengths), MACHINE, DEGREES)
