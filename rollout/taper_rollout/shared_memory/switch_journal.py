"""What a rank went through in its last switch: events with times, and how its requests resumed.

One fixed region a rank in the replica's segment, guarded by a sequence lock; the rank
writes a few times a switch. A reader gets the whole history of the switch, so it misses
no state however short that was, and nobody has to ask the rank.

Times are seconds of the machine's monotonic clock (`time.monotonic`), which all
processes of a replica share. Event codes are `taper_rollout.switching`'s.
"""

from __future__ import annotations

import itertools
import struct
import time
from dataclasses import dataclass

from taper_rollout.shared_memory.segment import Segment
from taper_rollout.shared_memory.sequence_lock import LockedWriter, read_whole

MAX_EVENTS = 8
LOCKED_SECONDS, LOCKED_POLL_SECONDS = 1.0, 0.0005
_LAYOUT = struct.Struct("<Qqqddq" + MAX_EVENTS * "qd")
JOURNAL_BYTES = _LAYOUT.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchJournal:
    """`events` are (code, time) in the order in which they happened; `epoch` 0: no switch yet.

    `paused_at` is the rank's last decode step before the switch; a rank that had nothing to
    decode paused when all others had stopped. `resumed_at` is when the last of its requests
    was prefilled again, and `prefilled_tokens` what that took. All three are 0 until then.
    """

    epoch: int = 0
    events: tuple[tuple[int, float], ...] = ()
    paused_at: float = 0.0
    resumed_at: float = 0.0
    prefilled_tokens: int = 0


class JournalWriter:
    """The writing end, owned by one rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._lock = LockedWriter(segment.memory, offset, _LAYOUT)

    def write(self, journal: SwitchJournal) -> None:
        """Publish the journal. Raises ValueError where it has more than `MAX_EVENTS` events."""
        if len(journal.events) > MAX_EVENTS:
            raise ValueError(f"a switch of {len(journal.events)} events; there is room for {MAX_EVENTS}")
        empty = ((0, 0.0),) * (MAX_EVENTS - len(journal.events))
        self._lock.begin()
        self._lock.end(
            journal.epoch,
            len(journal.events),
            journal.paused_at,
            journal.resumed_at,
            journal.prefilled_tokens,
            *itertools.chain.from_iterable((*journal.events, *empty)),
        )


class JournalReader:
    """A reading end; it never blocks the rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._memory, self._offset = segment.memory, offset

    def read(self) -> SwitchJournal:
        """The journal now. Raises RuntimeError where it stays locked for a second: the rank died."""
        deadline = time.monotonic() + LOCKED_SECONDS
        while (values := read_whole(self._memory, self._offset, _LAYOUT)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError("a rank's switch journal stays locked: its process died while it wrote")
            time.sleep(LOCKED_POLL_SECONDS)
        epoch, num_events, paused_at, resumed_at, prefilled_tokens, *rest = values
        codes_and_times = zip(rest[::2], rest[1::2], strict=True)
        return SwitchJournal(
            epoch=epoch,
            events=tuple(itertools.islice(codes_and_times, num_events)),
            paused_at=paused_at,
            resumed_at=resumed_at,
            prefilled_tokens=prefilled_tokens,
        )
