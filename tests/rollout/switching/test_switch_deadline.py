"""One switch, and its deadline."""

from __future__ import annotations

import time

import pytest

from taper_rollout.shared_memory.segment import Segment
from taper_rollout.shared_memory.switch_journal import JOURNAL_BYTES, JournalWriter
from taper_rollout.switching.command import SwitchOrder
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.rank_switch import RankSwitch
from taper_rollout.switching.states import SwitchEvent, SwitchState

from .agents import FOOTPRINT, FakeStacks, Ranks, called


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


@pytest.mark.parametrize("late", [0, 2])
def test_a_rank_that_is_late_stops_the_switch(ranks: Ranks, late: int) -> None:
    """Rank 0, which decides, as well as another."""
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
