"""The agents of four ranks: commands, and which faults end a rank."""

from __future__ import annotations

import json
import pickle
import time

import pytest

from taper_rollout.switching import rendezvous
from taper_rollout.switching.command import Command, Reply
from taper_rollout.switching.states import SwitchEvent, SwitchState

from .agents import FIGURES, FOOTPRINT, Ranks, fail


def test_other_commands_are_run_and_their_errors_returned(ranks: Ranks) -> None:
    replies = ranks.order("inspect", depth=3)
    assert [reply.result for reply in replies] == [{"rank": rank, "depth": 3} for rank in range(FOOTPRINT)]
    assert ranks.errors(ranks.order("dance")) == {"KeyError: 'dance'"}
    assert ranks.errors(ranks.order("inspect")) == {None}


def test_shutdown_is_answered_and_ends_the_agent(ranks: Ranks) -> None:
    assert ranks.errors(ranks.order("shutdown")) == {None}
    ranks.join()
    assert ranks.ended == dict.fromkeys(range(FOOTPRINT))


def test_commands_travel_as_json_and_replies_pickled() -> None:
    command = Command(id=3, name="switch", arguments={"degree": 2})
    assert Command(**json.loads(command.encode())) == command
    reply = Reply(id=3, rank=1, result=FIGURES, error=None)
    assert pickle.loads(pickle.dumps(reply)) == reply


def test_a_fault_in_the_transfer_ends_the_rank(ranks: Ranks) -> None:
    ranks.stacks[2].faults["transfer"] = fail
    replies = ranks.switch(1, timeout_seconds=1.0)
    assert replies[2].error == "OSError: no memory left"
    while not isinstance(ranks.ended[2], OSError):
        time.sleep(0.01)
    assert all("recomputed in the old layout" in (replies[rank].error or "") for rank in (0, 1, 3))
    assert ranks.states() == [
        SwitchState.ABORTED if rank == 2 else SwitchState.SERVING for rank in range(FOOTPRINT)
    ]
    replica = ranks.replica(1)
    assert (replica.cause, replica.state) == (SwitchEvent.FAULT, SwitchState.ABORTED)


@pytest.mark.parametrize("method", ["commit", "recover"])
def test_a_fault_past_the_plan_leaves_the_rank_aborted(ranks: Ranks, method: str) -> None:
    if method == "recover":
        ranks.stacks[1].faults["transfer"] = lambda: time.sleep(1.5)
    ranks.stacks[2].faults[method] = fail
    replies = ranks.switch(1, timeout_seconds=1.0)
    assert replies[2].error == "OSError: no memory left"
    while not isinstance(ranks.ended[2], OSError):
        time.sleep(0.01)
    assert ranks.states()[2] is ranks.replica(1).state is SwitchState.ABORTED


def test_a_fault_before_the_transfer_ends_nothing(ranks: Ranks) -> None:
    ranks.stacks[2].faults["offer"] = fail
    replies = ranks.switch(1, timeout_seconds=1.0)
    assert replies[2].error == "OSError: no memory left"
    assert {replies[rank].error for rank in (0, 1, 3)} == {"meeting 5: not every rank arrived in time"}
    assert ranks.replica(1).cause is SwitchEvent.FAULT, "the others' timeouts follow from it"
    assert ranks.states() == [SwitchState.SERVING] * FOOTPRINT
    ranks.stacks[2].faults.clear()
    assert ranks.errors(ranks.switch(2)) == {None}


def test_a_lost_arbiter_ends_the_rank(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "GRACE_SECONDS", 0.5)
    ranks.stacks[0].faults["offer"] = lambda: time.sleep(5)
    replies = ranks.switch(1, timeout_seconds=0.5)
    assert all("rank 0 did not decide" in (replies[rank].error or "") for rank in (1, 2, 3))
    while not all(isinstance(ranks.ended[rank], rendezvous.ArbiterLost) for rank in (1, 2, 3)):
        time.sleep(0.01)
    assert ranks.states()[1:] == [SwitchState.ABORTED] * 3
