"""Meetings of ranks: all see the same outcome, whatever the timing."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from taper_rollout.shared_memory.segment import Regions, Segment
from taper_rollout.switching import rendezvous
from taper_rollout.switching.rendezvous import ArbiterLost, MeetingCancelled, Rendezvous, plan_region

from ..sglang_unit.processes import run_ranks


def pause() -> None:
    time.sleep(0.0002)


def meeting_room(num_ranks: int) -> Callable[..., Rendezvous]:
    """Ends of ranks that live in this process."""
    regions = Regions()
    offsets = plan_region(regions, num_ranks)
    segment = Segment.create("taper-test", regions.end_bytes)
    return lambda rank, pause=pause: Rendezvous(segment, offsets, num_ranks, rank, pause)


def outcome(end: Rendezvous, ticket: int, payload: bytes, deadline_seconds: float) -> list[bytes] | str:
    try:
        return end.meet(ticket, payload, deadline_seconds)
    except MeetingCancelled as cancelled:
        return str(cancelled)


def test_everybody_gets_every_payload_in_rank_order() -> None:
    room = meeting_room(4)
    ends = [room(rank) for rank in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for ticket in (1, 2, 3, 5, 6, 9):
            payloads = [bytes([ticket, rank]) * rank * 100 for rank in range(4)]
            met = list(pool.map(lambda e, p, t=ticket: e.meet(t, p, 10.0), ends, payloads))
            assert met == [payloads] * 4


def test_a_meeting_without_one_is_cancelled_for_all_and_the_next_one_works() -> None:
    room = meeting_room(3)
    ends = [room(rank) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        began = time.monotonic()
        early = list(pool.map(lambda e: outcome(e, 1, b"x", 0.3), ends[:2]))
        assert 0.25 < time.monotonic() - began < 3
        assert early == ["meeting 1: not every rank arrived in time"] * 2
        assert outcome(ends[2], 1, b"x", 0.3) == early[0]  # a late rank gets the same outcome, at once
        assert list(pool.map(lambda e: e.meet(5, b"y", 10.0), ends)) == [[b"y"] * 3] * 3


def test_without_its_arbiter_a_meeting_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "GRACE_SECONDS", 0.2)
    end = meeting_room(2)(1)
    with pytest.raises(ArbiterLost, match="rank 1: rank 0 did not decide meeting 1"):
        end.meet(1, b"", 0.1)


def test_a_payload_larger_than_a_mailbox_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "MAILBOX_BYTES", 4096)
    end = meeting_room(2)(0)
    with pytest.raises(ValueError, match="payload of 4097 bytes exceeds the mailbox of 4096"):
        end.meet(1, b"x" * 4097, 0.1)


def test_a_rank_that_reads_late_that_a_meeting_was_opened_still_gets_it() -> None:
    """Rank 1 loses its core after it has arrived; meanwhile rank 0 goes on, and cancels the next meeting."""
    room = meeting_room(2)
    core = threading.Event()

    def lose_core() -> None:
        core.wait(20)

    first, slow = room(0), room(1, lose_core)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(outcome, slow, 1, b"slow", 10.0)
        assert outcome(first, 1, b"first", 10.0) == [b"first", b"slow"]
        assert "not every rank" in outcome(first, 2, b"", 0.1)
        core.set()
        assert late.result(20) == [b"first", b"slow"]


Outcomes = list[list[bytes] | str]


def meet_at_random(segment: Segment, rank: int, offsets: tuple[int, int], rounds: int) -> Outcomes:
    """Meetings with deadlines so short that some are missed."""
    end, dice = Rendezvous(segment, offsets, 3, rank, os.sched_yield), random.Random(rank)
    outcomes = []
    for number in range(rounds):
        if dice.random() < 0.2:
            time.sleep(dice.random() * 0.02)
        outcomes.append(outcome(end, 2 * number + 1, b"%d/%d" % (number, rank), 0.01))
        # The coordinator waits for every rank's reply before it proposes the next switch.
        end.meet(2 * number + 2, b"", 20.0)
    return outcomes


def test_no_two_ranks_see_different_outcomes() -> None:
    rounds, regions = 150, Regions()
    offsets = plan_region(regions, 3)
    results = run_ranks(meet_at_random, 3, regions.end_bytes, offsets, rounds)
    assert results[0] == results[1] == results[2]
    opened = [r for r in results[0] if isinstance(r, list)]
    assert 0 < len(opened) < rounds
    assert all(
        r == [b"%d/%d" % (number, rank) for rank in range(3)]
        for number, r in enumerate(results[0])
        if isinstance(r, list)
    )
