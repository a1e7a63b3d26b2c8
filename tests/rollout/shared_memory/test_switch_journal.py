"""Switch journals: what a rank writes is what readers see, whole or not at all."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from taper_rollout.shared_memory import switch_journal
from taper_rollout.shared_memory.segment import Segment
from taper_rollout.shared_memory.switch_journal import (
    JOURNAL_BYTES,
    MAX_EVENTS,
    JournalReader,
    JournalWriter,
    SwitchJournal,
)

from ..sglang_unit.processes import run_ranks

OFFSET = 4096


def ends() -> tuple[JournalWriter, JournalReader, Segment]:
    segment = Segment.create("taper-test", OFFSET + JOURNAL_BYTES)
    return JournalWriter(segment, OFFSET), JournalReader(segment, OFFSET), segment


def test_a_journal_reads_as_it_was_written() -> None:
    writer, reader, _ = ends()
    assert reader.read() == SwitchJournal()
    for events in ((), ((0, 1.5),), tuple((code, float(code)) for code in range(MAX_EVENTS))):
        journal = SwitchJournal(epoch=7, events=events, paused_at=1.0, resumed_at=2.0, prefilled_tokens=3)
        writer.write(journal)
        assert reader.read() == journal


def test_a_switch_of_more_events_than_there_is_room_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="a switch of 9 events; there is room for 8"):
        ends()[0].write(SwitchJournal(events=((0, 0.0),) * 9))


def test_a_journal_that_is_being_written_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader, segment = ends()
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    later = threading.Timer(0.1, lambda: writer.write(SwitchJournal(epoch=5)))
    later.start()
    assert reader.read().epoch == 5
    later.join()
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    monkeypatch.setattr(switch_journal, "LOCKED_SECONDS", 0.05)
    with pytest.raises(RuntimeError, match="its process died while it wrote"):
        reader.read()


def write_or_read(segment: Segment, rank: int, seconds: float) -> int:
    """Rank 0 writes journals whose fields all have one number; the others look for a mixed one."""
    segment.memory[rank] = 1
    while segment.memory[:3] != bytes([1, 1, 1]):
        time.sleep(0.001)
    deadline, seen = time.monotonic() + seconds, set()
    writer, reader = JournalWriter(segment, OFFSET), JournalReader(segment, OFFSET)
    number = 0
    while time.monotonic() < deadline:
        if rank == 0:
            number += 1
            writer.write(
                SwitchJournal(
                    epoch=number,
                    events=((number, float(number)),) * (number % MAX_EVENTS),
                    paused_at=float(number),
                    resumed_at=float(number),
                    prefilled_tokens=number,
                )
            )
            # As often as in a busy run, and more: a writer that never rests leaves no time to read.
            time.sleep(0.0001)
            continue
        journal = reader.read()
        numbers = {journal.epoch, journal.paused_at, journal.resumed_at, journal.prefilled_tokens}
        assert len(numbers.union(*journal.events)) == 1, journal
        assert len(journal.events) == journal.epoch % MAX_EVENTS
        seen.add(journal.epoch)
    return number or len(seen)


def test_no_reader_ever_sees_a_torn_journal() -> None:
    writes, *reads = run_ranks(write_or_read, 3, OFFSET + JOURNAL_BYTES, 1.0)
    assert writes > 500
    assert min(reads) > 50
