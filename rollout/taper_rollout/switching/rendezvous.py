"""How the ranks of a replica agree on a step of a switch: all of them, or none, before a deadline.

A *meeting* is named by a ticket, a number that grows with every meeting of the replica.
Each rank leaves a payload and arrives; rank 0 alone decides: it opens the meeting when
all have arrived, or cancels it when the deadline passes first, also by its own late
arrival. The others only read its decision, so two ranks can never see different outcomes.
A rank that arrives late at a cancelled meeting reads that decision too.

Payloads lie in per-rank mailboxes of the replica's segment, two each, used alternately:
a rank that writes its mailbox for meeting n+2 has seen meeting n+1 opened, so all have
finished reading meeting n. Decisions lie in two words for the same reason: rank 0 may
have gone on, and cancelled the next meeting, before a rank reads that this one was opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from taper_rollout.shared_memory.segment import Regions, Segment

MAILBOX_BYTES = 256 << 20
GRACE_SECONDS = 10.0
_WORDS = 16


class MeetingCancelled(RuntimeError):
    """Not every rank arrived in time; every rank sees the same outcome."""


class ArbiterLost(RuntimeError):
    """Rank 0 never decided: its process is gone or stuck. Not survivable for this replica."""


def plan_region(regions: Regions, num_ranks: int) -> tuple[int, int]:
    """Offsets of the control words and of the mailboxes."""
    return regions.take(num_ranks * _WORDS * 8), regions.take(2 * num_ranks * MAILBOX_BYTES)


class Rendezvous:
    """One rank's end. Words of a rank: 0 its ticket, 1-2 its payload lengths, 3-4 (rank 0) the decisions."""

    def __init__(
        self, segment: Segment, offsets: tuple[int, int], num_ranks: int, rank: int, pause: Callable[[], None]
    ) -> None:
        words, self._mail = offsets
        self._segment, self.num_ranks, self.rank, self._pause = segment, num_ranks, rank, pause
        self._words = memoryview(segment.memory)[words : words + num_ranks * _WORDS * 8].cast("q")

    def meet(self, ticket: int, payload: bytes, deadline_seconds: float) -> list[bytes]:
        """Everybody's payload, in rank order, once all ranks have arrived with the same ticket.

        Raises MeetingCancelled when one did not within `deadline_seconds`, ArbiterLost when
        rank 0 does not say either way, ValueError for a payload larger than a mailbox.
        """
        if len(payload) > MAILBOX_BYTES:
            raise ValueError(f"payload of {len(payload)} bytes exceeds the mailbox of {MAILBOX_BYTES}")
        parity = ticket & 1
        start = self._mailbox(self.rank, parity)
        self._segment.memory[start : start + len(payload)] = payload
        mine = self.rank * _WORDS
        self._words[mine + 1 + parity] = len(payload)
        self._words[mine] = ticket
        deadline = time.monotonic() + deadline_seconds
        if self.rank == 0:
            self._decide(ticket, deadline)
        self._await_decision(ticket, deadline + GRACE_SECONDS)
        return [self._read(rank, parity) for rank in range(self.num_ranks)]

    def _decide(self, ticket: int, deadline: float) -> None:
        for rank in range(self.num_ranks):
            while self._words[rank * _WORDS] != ticket:
                if time.monotonic() > deadline:
                    self._words[3 + (ticket & 1)] = -ticket
                    return
                self._pause()
        in_time = time.monotonic() <= deadline
        self._words[3 + (ticket & 1)] = ticket if in_time else -ticket

    def _await_decision(self, ticket: int, deadline: float) -> None:
        while abs(decision := self._words[3 + (ticket & 1)]) < ticket:
            if time.monotonic() > deadline:
                raise ArbiterLost(f"rank {self.rank}: rank 0 did not decide meeting {ticket}")
            self._pause()
        if decision != ticket:
            raise MeetingCancelled(f"meeting {ticket}: not every rank arrived in time")

    def _mailbox(self, rank: int, parity: int) -> int:
        return self._mail + (2 * rank + parity) * MAILBOX_BYTES

    def _read(self, rank: int, parity: int) -> bytes:
        start = self._mailbox(rank, parity)
        return bytes(self._segment.memory[start : start + self._words[rank * _WORDS + 1 + parity]])
