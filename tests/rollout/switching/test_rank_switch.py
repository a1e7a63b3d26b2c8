"""One switch, as four ranks make it."""

from __future__ import annotations

import dataclasses
import time

import pytest

from taper_policy import layout
from taper_policy.profile.kv_choice import HeldKv, KvCosts, kv_as_json
from taper_rollout.switching.pause_phases import MARKS
from taper_rollout.switching.states import SwitchEvent, SwitchState

from .agents import FIGURES, FOOTPRINT, Ranks, called

FORWARD = [
    SwitchEvent.PROPOSED,
    SwitchEvent.ALL_AGREED,
    SwitchEvent.PLAN_MATCHED,
    SwitchEvent.ALL_DONE,
    SwitchEvent.RESUMED,
]


def test_a_switch_is_made_by_all_with_one_plan(ranks: Ranks) -> None:
    replies = ranks.switch(1)
    assert ranks.errors(replies) == {None}
    figures = [reply.result for reply in replies]
    assert all(dataclasses.replace(one, parts_seconds={}) == FIGURES for one in figures)
    assert all(one.parts_seconds["kv"] == 0.5 for one in figures)
    assert set(figures[0].parts_seconds) == {"offer", "quiesce", "agree", "kv"}
    assert ranks.events() == [FORWARD] * FOOTPRINT
    assert ranks.states() == [SwitchState.SERVING] * FOOTPRINT
    assert [one.event for one in ranks.replica(1).transitions] == FORWARD
    assert called(ranks) == [["offer", "transfer", "commit"]] * FOOTPRINT
    plans = [stacks.plan for stacks in ranks.stacks]
    assert plans[0] is not None
    assert plans[0].target_group == {"a": 0, "b": 0, "c": 1}
    assert all(plan == plans[0] for plan in plans)


def test_what_is_recomputed_is_in_every_ranks_plan(ranks: Ranks) -> None:
    costs = KvCosts(
        exchange_seconds=0.0,
        migrated_request_seconds=0.02,
        migrated_token_seconds=0.0,
        recomputed_token_seconds=0.001,
    )
    for epoch, (kv, recomputed) in enumerate(
        [("migrate", set()), ("recompute", {"a", "b"}), (kv_as_json(costs), {"b"})], start=1
    ):
        for stacks in ranks.stacks:
            stacks.degree = 1
        assert ranks.errors(ranks.switch(epoch, kv=kv)) == {None}
        for stacks in ranks.stacks:
            assert stacks.plan is not None
            assert stacks.plan.recomputed == recomputed
            assert {kv.request for kv in stacks.plan.slices} == {"a", "b"} - recomputed


def test_an_unknown_kv_mode_changes_nothing(ranks: Ranks) -> None:
    [error] = ranks.errors(ranks.switch(1, kv="auto"))
    assert error == "ValueError: kv: 'auto' is not 'migrate', 'recompute' or the costs of both"
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.errors(ranks.switch(2)) == {None}


def test_the_parts_that_pause_phases_takes_for_marks_are_marks(ranks: Ranks) -> None:
    """Seconds since the rank took up the switch, not those of the part alone.

    Ranks 0 and 1 decode: they wait for each other. The others' clocks begin when both have stopped.
    """
    began_at = time.monotonic()
    ranks.stacks[0].faults["offer"] = lambda: time.sleep(0.05)
    ranks.stacks[1].faults["offer"] = lambda: time.sleep(0.25)
    replies = ranks.switch(1)
    marks = [[reply.result.parts_seconds[name] for name in MARKS] for reply in replies]
    for one in marks[:2]:
        assert 0.05 <= one[0] <= one[1] <= one[2]
    assert marks[0][1] - marks[0][0] >= 0.1
    for rank in (2, 3):
        assert marks[rank][0] == 0.0
        assert 0.0 <= marks[rank][1] <= 0.05
        assert ranks.stacks[rank].began >= began_at + 0.25


def test_switches_follow_each_other(ranks: Ranks) -> None:
    for epoch, degree in enumerate((2, 4, 1, 4), start=1):
        groups = FOOTPRINT // ranks.stacks[0].degree
        for stacks in ranks.stacks:
            leads = layout.ranks_of(stacks.rank // stacks.degree, stacks.degree)[0] == stacks.rank
            stacks.live = (HeldKv(id=f"r{stacks.rank}", group=stacks.rank // stacks.degree, num_tokens=5),)
            stacks.live = stacks.live if leads else ()
        assert ranks.errors(ranks.switch(epoch, degree)) == {None}
        assert {stacks.degree for stacks in ranks.stacks} == {degree}
        assert groups == len(ranks.stacks[0].plan.requests)  # type: ignore[union-attr]


def test_one_refusal_stops_all_before_anything_changed(ranks: Ranks) -> None:
    ranks.stacks[2].refusal = "busy"
    assert ranks.errors(ranks.switch(1)) == {"rank 2: busy"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.events() == [[SwitchEvent.PROPOSED, SwitchEvent.REFUSED, SwitchEvent.RESUMED]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.REFUSED
    ranks.stacks[2].refusal = None
    assert ranks.errors(ranks.switch(2)) == {None}


def test_ranks_that_report_a_request_differently_stop_the_switch(ranks: Ranks) -> None:
    ranks.stacks[1].live = (HeldKv(id="a", group=0, num_tokens=31),)
    assert ranks.errors(ranks.switch(1)) == {"ranks disagree about request a"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.PLAN_MISMATCHED


def test_plans_that_differ_stop_the_switch(ranks: Ranks) -> None:
    ranks.stacks[3].num_kv_heads = 16
    assert ranks.errors(ranks.switch(1)) == {"the ranks' plans differ"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.PLAN_MISMATCHED
    assert ranks.states() == [SwitchState.SERVING] * FOOTPRINT


@pytest.mark.parametrize("epoch", [0, 4, 5])
def test_an_epoch_that_is_not_newer_is_dropped(ranks: Ranks, epoch: int) -> None:
    ranks.switch(5)
    assert ranks.errors(ranks.switch(epoch, degree=4)) == {f"epoch {epoch} is not newer than 5"}
    assert called(ranks) == [["offer", "transfer", "commit"]] * FOOTPRINT


def test_a_switch_while_requests_of_the_last_one_still_wait_is_refused(ranks: Ranks) -> None:
    for stacks in ranks.stacks:
        stacks.protocol.resume = lambda **_: None  # type: ignore[method-assign]
    assert ranks.errors(ranks.switch(1)) == {None}
    assert ranks.states() == [SwitchState.COMMITTED] * FOOTPRINT
    assert ranks.errors(ranks.switch(2, degree=4)) == {
        "IllegalTransition: proposed while committed (epoch 1)"
    }
    assert ranks.states() == [SwitchState.COMMITTED] * FOOTPRINT
