"""Four ranks, each with its agent in a thread, over fake stacks that record their calls."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from taper_policy.profile.kv_choice import HeldKv
from taper_rollout.shared_memory.segment import Regions, Segment
from taper_rollout.shared_memory.switch_journal import (
    JOURNAL_BYTES,
    JournalReader,
    JournalWriter,
    SwitchJournal,
)
from taper_rollout.switching.agent import run_commands
from taper_rollout.switching.command import Command, Reply, SwitchOrder
from taper_rollout.switching.figures import MovedRequest, SwitchFigures
from taper_rollout.switching.plans import SwitchPlan
from taper_rollout.switching.rank_protocol import RankProtocol, replayed
from taper_rollout.switching.rank_switch import Offer
from taper_rollout.switching.rendezvous import Rendezvous, plan_region
from taper_rollout.switching.replica_protocol import followed
from taper_rollout.switching.states import SwitchEvent, SwitchProtocol, SwitchState

FOOTPRINT = 4
REQUESTS = {0: ("a", 30), 1: ("b", 10), 3: ("c", 0)}
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
        self.live: tuple[HeldKv, ...] | None = None
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
            live = tuple(HeldKv(id=name, group=self.rank, num_tokens=n) for name, n in mine)
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
            thread = threading.Thread(target=self._run, args=(stacks, meetings), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, stacks: FakeStacks, meetings: Rendezvous) -> None:
        self.ended[stacks.rank] = None
        try:
            run_commands(stacks, meetings, stacks.protocol, self.replies.put)
        except BaseException as error:
            self.ended[stacks.rank] = error

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
        return [[one.event for one in replayed(journal).transitions] for journal in self.journals()]

    def states(self) -> list[SwitchState]:
        return [replayed(journal).state for journal in self.journals()]

    def replica(self, epoch: int) -> SwitchProtocol:
        """The switch as the coordinator follows it."""
        before = SwitchProtocol(timeout_seconds=10.0, epoch=epoch - 1)
        return followed(before.apply(SwitchEvent.PROPOSED, epoch, 0.0), self.journals())

    def errors(self, replies: list[Reply]) -> set[str | None]:
        return {reply.error for reply in replies}

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def called(ranks: Ranks) -> list[list[str]]:
    return [stacks.calls for stacks in ranks.stacks]


def fail() -> None:
    raise OSError("no memory left")
