"""The agents of four ranks, in threads, over fake stacks that record their calls."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taper_policy import layout
from taper_policy.profile.kv_choice import KvCosts, kv_as_json
from taper_rollout.shared_memory.segment import Regions, Segment
from taper_rollout.shared_memory.switch_journal import (
    JOURNAL_BYTES,
    JournalReader,
    JournalWriter,
    SwitchJournal,
)
from taper_rollout.switching import rendezvous
from taper_rollout.switching.agent import Agent
from taper_rollout.switching.command import Command, Reply, SwitchOrder
from taper_rollout.switching.figures import MovedRequest, SwitchFigures
from taper_rollout.switching.pause_phases import MARKS
from taper_rollout.switching.plans import MovingRequest, SwitchPlan
from taper_rollout.switching.rank_protocol import RankProtocol, state_of, timed_events
from taper_rollout.switching.rank_switch import Offer, RankSwitch
from taper_rollout.switching.rendezvous import Rendezvous, plan_region
from taper_rollout.switching.replica_protocol import ReplicaProtocol
from taper_rollout.switching.states import SwitchEvent, SwitchProtocol, SwitchState

FOOTPRINT = 4
REQUESTS = {0: ("a", 30), 1: ("b", 10), 3: ("c", 0)}


FORWARD = [
    SwitchEvent.PROPOSED,
    SwitchEvent.ALL_AGREED,
    SwitchEvent.PLAN_MATCHED,
    SwitchEvent.ALL_DONE,
    SwitchEvent.RESUMED,
]
FIGURES = SwitchFigures(
    live_requests=3,
    live_tokens=40,
    migrated_requests=2,
    migrated_tokens=40,
    recomputed_requests=0,
    recomputed_tokens=0,
    moved_bytes=0,
    commit_seconds=0.0,
    blocked_seconds=0.0,
    parts_seconds={},
    requests=(MovedRequest("a", 0, 30, 0),),
)


class FakeStacks:
    """Records its calls. `faults` maps a method to what is called before it does its work."""

    def __init__(self, rank: int, protocol: RankProtocol) -> None:
        self.protocol = protocol
        self.began = 0.0
        self.rank, self.footprint, self.num_kv_heads, self.degree = rank, FOOTPRINT, 8, 1
        self.commands: queue.Queue[Command] = queue.Queue()
        self.calls: list[str] = []
        self.plan: SwitchPlan | None = None
        self.refusal: str | None = None
        self.live: tuple[MovingRequest, ...] | None = None
        self.faults: dict[str, Callable[[], object]] = {}

    def _record(self, method: str) -> None:
        self.calls.append(method)
        self.faults.get(method, lambda: None)()

    def serve(self) -> Command:
        return self.commands.get(timeout=30)

    def offer(self, degree: int) -> Offer:
        self._record("offer")
        live = self.live
        if live is None:
            mine = [REQUESTS[self.rank]] if self.rank in REQUESTS else []
            live = tuple(MovingRequest(id=name, group=self.rank, num_tokens=n) for name, n in mine)
        return Offer(refusal=self.refusal, live=live, packed=b"packed %d" % self.rank)

    def transfer(self, plan: SwitchPlan, offers: list[Offer]) -> dict[str, float]:
        self._record("transfer")
        self.plan = plan
        assert [offer.packed for offer in offers] == [b"packed %d" % rank for rank in range(FOOTPRINT)]
        return {"kv": 0.5}

    def commit(self, plan: SwitchPlan, began: float) -> SwitchFigures:
        self._record("commit")
        self.degree, self.began = plan.to_degree, began
        self.protocol.resume(paused_at=began, prefilled_tokens=self.rank)
        return FIGURES

    def recover(self) -> None:
        self._record("recover")

    def obey(self, command: Command) -> dict[str, Any]:
        self._record(command.name)
        if command.name != "inspect":
            raise KeyError(command.name)
        return {"rank": self.rank} | command.arguments


class Ranks:
    """All agents, and the coordinator's end of their channel."""

    def __init__(self) -> None:
        regions = Regions()
        offsets = plan_region(regions, FOOTPRINT)
        journals = [regions.take(JOURNAL_BYTES) for _ in range(FOOTPRINT)]
        segment = Segment.create("taper-test", regions.end_bytes)
        protocols = [RankProtocol(JournalWriter(segment, offset)) for offset in journals]
        self.stacks = [FakeStacks(rank, protocol) for rank, protocol in enumerate(protocols)]
        self._journals = [JournalReader(segment, offset) for offset in journals]
        self.replies: queue.Queue[Reply] = queue.Queue()
        self.ended: dict[int, BaseException | None] = {}
        self._ids = 0
        self._threads = []
        for stacks in self.stacks:
            meetings = Rendezvous(segment, offsets, FOOTPRINT, stacks.rank, lambda: time.sleep(0.0002))
            agent = Agent(stacks, meetings, stacks.protocol, self.replies.put)
            thread = threading.Thread(target=self._run, args=(stacks.rank, agent), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, rank: int, agent: Agent) -> None:
        self.ended[rank] = None
        try:
            agent.run()
        except BaseException as error:
            self.ended[rank] = error

    def order(self, name: str, **arguments: Any) -> list[Reply]:
        """Every rank's reply, in rank order."""
        self._ids += 1
        for stacks in self.stacks:
            stacks.commands.put(Command(id=self._ids, name=name, arguments=arguments))
        replies = [self.replies.get(timeout=30) for _ in self.stacks]
        assert {reply.id for reply in replies} == {self._ids}
        return sorted(replies, key=lambda reply: reply.rank)

    def switch(
        self, epoch: int, degree: int = 2, timeout_seconds: float = 10.0, kv: Any = "migrate"
    ) -> list[Reply]:
        order = SwitchOrder(
            epoch=epoch,
            degree=degree,
            kv=kv,
            proposed_at=time.monotonic(),
            timeout_seconds=timeout_seconds,
        )
        return self.order("switch", **dataclasses.asdict(order))

    def journals(self) -> list[SwitchJournal]:
        return [journal.read() for journal in self._journals]

    def events(self) -> list[list[SwitchEvent]]:
        """The last switch of each rank."""
        return [[timed.event for timed in timed_events(journal)] for journal in self.journals()]

    def states(self) -> list[SwitchState]:
        return [state_of(journal) for journal in self.journals()]

    def replica(self, epoch: int) -> ReplicaProtocol:
        """The switch as the coordinator follows it."""
        proposed = ReplicaProtocol(protocol=SwitchProtocol(timeout_seconds=10.0, epoch=epoch - 1)).propose(
            0.0
        )
        return proposed.follow(self.journals())

    def errors(self, replies: list[Reply]) -> set[str | None]:
        return {reply.error for reply in replies}

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    for stacks in ranks.stacks:
        stacks.commands.put(Command(id=-1, name="shutdown", arguments={}))


def called(ranks: Ranks) -> list[list[str]]:
    return [stacks.calls for stacks in ranks.stacks]


def test_a_switch_is_made_by_all_with_one_plan(ranks: Ranks) -> None:
    replies = ranks.switch(1)
    assert ranks.errors(replies) == {None}
    figures = [SwitchFigures.from_json(json.loads(json.dumps(reply.result))) for reply in replies]
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
    marks = [[reply.result["parts_seconds"][name] for name in MARKS] for reply in replies]
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
            stacks.live = (
                MovingRequest(id=f"r{stacks.rank}", group=stacks.rank // stacks.degree, num_tokens=5),
            )
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
    ranks.stacks[1].live = (MovingRequest(id="a", group=0, num_tokens=31),)
    assert ranks.errors(ranks.switch(1)) == {"ranks disagree about request a"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.PLAN_MISMATCHED


def test_plans_that_differ_stop_the_switch(ranks: Ranks) -> None:
    ranks.stacks[3].num_kv_heads = 16
    assert ranks.errors(ranks.switch(1)) == {"the ranks' plans differ"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.PLAN_MISMATCHED
    assert ranks.states() == [SwitchState.SERVING] * FOOTPRINT


@pytest.mark.parametrize("late", range(FOOTPRINT))
def test_a_rank_that_is_late_stops_the_switch(ranks: Ranks, late: int) -> None:
    """Also rank 0, which decides."""
    ranks.stacks[late].faults["offer"] = lambda: time.sleep(2.5)
    errors = ranks.errors(ranks.switch(1, timeout_seconds=2.0))
    assert errors == {"meeting 5: not every rank arrived in time"}
    assert called(ranks) == [["offer"]] * FOOTPRINT
    assert ranks.events() == [[SwitchEvent.PROPOSED, SwitchEvent.TIMEOUT, SwitchEvent.RESUMED]] * FOOTPRINT
    assert ranks.replica(1).cause is SwitchEvent.TIMEOUT
    ranks.stacks[late].faults.clear()
    assert ranks.errors(ranks.switch(2)) == {None}


def test_a_rank_that_transfers_too_long_sends_all_back(ranks: Ranks) -> None:
    ranks.stacks[1].faults["transfer"] = lambda: time.sleep(2.5)
    [error] = ranks.errors(ranks.switch(1, timeout_seconds=2.0))
    assert error == "meeting 7: not every rank arrived in time; requests are recomputed in the old layout"
    assert called(ranks) == [["offer", "transfer", "recover"]] * FOOTPRINT
    assert {stacks.degree for stacks in ranks.stacks} == {1}
    assert ranks.replica(1).cause is SwitchEvent.TIMEOUT
    assert [one.state for one in ranks.replica(1).transitions] == [
        SwitchState.PREPARED,
        SwitchState.QUIESCED,
        SwitchState.TRANSFERRING,
        SwitchState.ABORTED,
        SwitchState.SERVING,
    ]
    ranks.stacks[1].faults.clear()
    assert ranks.errors(ranks.switch(2)) == {None}


class RecordedMeetings:
    """A rendezvous of one rank: records how long each meeting may last, and takes its time."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self._clock, self._seconds = clock, seconds
        self.waits: list[float] = []

    def meet(self, ticket: int, payload: bytes, deadline_seconds: float) -> list[bytes]:
        self.waits.append(deadline_seconds)
        self._clock.now += self._seconds.pop(0)
        return [payload] * FOOTPRINT


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("took", "waits"),
    [
        # Of 20 s, proposed 2 s before: until 10 s, 12 s and 18 s after the proposal.
        ([0.0, 0.0, 0.0], [8.0, 10.0, 16.0]),
        ([7.0, 1.0, 5.0], [8.0, 3.0, 8.0]),
        ([8.0, 2.0, 6.0], [8.0, 2.0, 6.0]),
        ([9.0, 0.0, 0.0], [8.0, 1.0, 7.0]),
        ([30.0, 0.0, 0.0], [8.0, 0.0, 0.0]),
    ],
)
def test_all_meetings_share_one_deadline(took: list[float], waits: list[float]) -> None:
    """It counts from the proposal; what an early meeting did not need is left to the later ones."""
    clock = Clock()
    segment = Segment.create("taper-test", JOURNAL_BYTES)
    protocol = RankProtocol(JournalWriter(segment, 0), clock)
    stacks, meetings = FakeStacks(0, protocol), RecordedMeetings(clock, list(took))
    stacks.live, stacks.transfer = (), lambda plan, offers: {}  # type: ignore[assignment,method-assign]
    order = SwitchOrder(epoch=1, degree=2, kv="migrate", proposed_at=98.0, timeout_seconds=20.0)
    RankSwitch(stacks, meetings, protocol).run(order)  # type: ignore[arg-type]
    assert meetings.waits == waits
    ends = [100.0 + sum(took[:number]) + wait for number, wait in enumerate(waits)]
    assert all(end <= 98.0 + 20.0 for end, wait in zip(ends, waits, strict=True) if wait)


@pytest.mark.parametrize("epoch", [0, 4, 5])
def test_an_epoch_that_is_not_newer_is_dropped(ranks: Ranks, epoch: int) -> None:
    ranks.switch(5)
    assert ranks.errors(ranks.switch(epoch, degree=4)) == {f"epoch {epoch} is not newer than 5"}
    assert called(ranks) == [["offer", "transfer", "commit"]] * FOOTPRINT


def fail() -> None:
    raise OSError("no memory left")


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


def test_other_commands_are_run_and_their_errors_returned(ranks: Ranks) -> None:
    replies = ranks.order("inspect", depth=3)
    assert [reply.result for reply in replies] == [{"rank": rank, "depth": 3} for rank in range(FOOTPRINT)]
    assert ranks.errors(ranks.order("dance")) == {"KeyError: 'dance'"}
    assert ranks.errors(ranks.order("inspect")) == {None}


def test_shutdown_is_answered_and_ends_the_agent(ranks: Ranks) -> None:
    assert ranks.errors(ranks.order("shutdown")) == {None}
    ranks.join()
    assert ranks.ended == dict.fromkeys(range(FOOTPRINT))


def test_a_switch_while_requests_of_the_last_one_still_wait_is_refused(ranks: Ranks) -> None:
    for stacks in ranks.stacks:
        stacks.protocol.resume = lambda **_: None  # type: ignore[method-assign]
    assert ranks.errors(ranks.switch(1)) == {None}
    assert ranks.states() == [SwitchState.COMMITTED] * FOOTPRINT
    assert ranks.errors(ranks.switch(2, degree=4)) == {
        "IllegalTransition: proposed while committed (epoch 1)"
    }
    assert ranks.states() == [SwitchState.COMMITTED] * FOOTPRINT


def test_commands_and_replies_travel_as_json() -> None:
    command = Command(id=3, name="switch", arguments={"degree": 2})
    assert Command(**json.loads(command.encode())) == command
    reply = Reply(id=3, rank=1, result={"requests": [["a", 0, 5, 0]]}, error=None)
    assert Reply.decode(reply.encode()) == reply
