"""Progress records: what a rank writes is what readers see, whole or not at all."""

from __future__ import annotations

import dataclasses
import struct
import threading
import time
from typing import Any

import pytest

from taper_rollout.shared_memory import rank_record as records
from taper_rollout.shared_memory.rank_record import (
    MAX_LIVE,
    RECORD_BYTES,
    RING_STEPS,
    LiveRecord,
    RankRecord,
    RecordReader,
    RecordWriter,
    Step,
    boundary_seconds,
    check_platform,
    name_request,
    new_group_steps,
    request_number,
)
from taper_rollout.shared_memory.segment import Segment

from ..sglang_unit.processes import run_ranks

OFFSET = 4096


NOT_WRITTEN = ("at", "steps_total", "listed")


def written(number: int) -> dict[str, Any]:
    """A record whose fields all have the same number."""
    names = [field.name for field in dataclasses.fields(RankRecord) if field.name not in NOT_WRITTEN]
    return dict.fromkeys(names, number) | {"step_seconds": float(number), "live": ()}


@pytest.fixture
def ends() -> tuple[RecordWriter, RecordReader, Segment]:
    segment = Segment.create("taper-test", OFFSET + RECORD_BYTES)
    return RecordWriter(segment, OFFSET), RecordReader(segment, OFFSET), segment


Ends = tuple[RecordWriter, RecordReader, Segment]


def test_a_record_reads_as_it_was_written(ends: Ends) -> None:
    writer, reader, _ = ends
    fields = {
        "degree": 2,
        "running": 5,
        "waiting": 7,
        "live": [(1, 11), (4_000_000_000, 2)],
        "longest_tokens": 11,
        "prefilled_tokens_total": 1 << 40,
        "step_seconds": 0.25,
    }
    before = time.time()
    writer.write(**fields)
    record = reader.read()
    live = fields.pop("live")
    assert {name: getattr(record, name) for name in fields} == fields
    assert record.listed == len(live)
    assert before <= record.at <= time.time()
    assert record.steps_total == 0


def test_a_record_that_was_never_written_is_all_zero(ends: Ends) -> None:
    assert ends[1].read().running == 0
    assert ends[1].new_steps() == []


def steps(count: int, first: int = 0) -> list[Step]:
    return [
        Step(degree=1 + i % 2, batch=i, context_tokens=10 * i, seconds=i / 8)
        for i in range(first, first + count)
    ]


def test_new_steps_are_read_once_and_in_order(ends: Ends) -> None:
    writer, reader, _ = ends
    for step in steps(5):
        writer.step(step)
    assert reader.new_steps() == []  # not before the record is written
    writer.write(**written(1))
    assert reader.new_steps() == steps(5)
    assert reader.new_steps() == []
    for step in steps(3, first=5):
        writer.step(step)
    writer.write(**written(2))
    assert reader.new_steps() == steps(3, first=5)


def test_a_reader_that_comes_late_gets_the_last_steps(ends: Ends) -> None:
    writer, reader, _ = ends
    for step in steps(3 * RING_STEPS):
        writer.step(step)
    writer.write(**written(1))
    found = reader.new_steps()
    assert found == steps(3 * RING_STEPS)[-len(found) :]
    assert RING_STEPS - 16 < len(found) <= RING_STEPS


def test_a_step_overwritten_while_it_is_read_is_left_out(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader, _ = ends
    for step in steps(2):
        writer.step(step)
    writer.write(**written(1))
    layout, calls = records._STEP, []

    class Interrupted:
        """The layout of a step, read by one who loses the core between its number and the rest."""

        def unpack_from(self, memory: memoryview, slot: int) -> tuple[object, ...]:
            calls.append(slot)
            before = layout.unpack_from(memory, slot)
            if len(calls) == 1:
                for step in steps(RING_STEPS, first=2):
                    writer.step(step)
                return (before[0], *layout.unpack_from(memory, slot)[1:])
            return before

        pack_into = layout.pack_into

    monkeypatch.setattr(records, "_STEP", Interrupted())
    assert reader.new_steps() == []


def test_a_step_of_a_group_counts_once_also_when_a_follower_leads_later() -> None:
    """Two ranks together, then each alone; nobody looks until the second one leads."""
    segment = Segment.create("taper-test", OFFSET + 2 * RECORD_BYTES)
    ends = [OFFSET + rank * RECORD_BYTES for rank in range(2)]
    writers, readers = [RecordWriter(segment, at) for at in ends], [RecordReader(segment, at) for at in ends]
    wide = [dataclasses.replace(step, degree=2) for step in steps(3)]
    narrow = [dataclasses.replace(step, degree=1) for step in steps(3, first=3)]
    for writer in writers:
        for step in (*wide, *narrow):
            writer.step(step)
        writer.write(**written(1))
    records = [reader.read() for reader in readers]
    assert new_group_steps(readers, records) == [*wide, *narrow, *narrow]
    assert new_group_steps(readers, records) == []


def test_readers_do_not_disturb_each_other(ends: Ends) -> None:
    writer, reader, segment = ends
    writer.step(steps(1)[0])
    writer.write(**written(1))
    assert len(reader.new_steps()) == 1
    assert len(RecordReader(segment, OFFSET).new_steps()) == 1


def test_a_half_written_record_gives_the_one_before(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader, segment = ends
    writer.write(**written(4))
    assert reader.read().running == 4
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    assert reader.read().running == 4
    now = time.monotonic()
    monkeypatch.setattr(records.time, "monotonic", lambda: now + 2)
    with pytest.raises(RuntimeError, match="its process died while it wrote"):
        reader.read()
    writer.write(**written(5))
    assert reader.read().running == 5


def test_the_first_look_waits_for_a_whole_record(ends: Ends) -> None:
    """A rank that loses its core while it writes is not dead."""
    writer, reader, segment = ends
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    goes_on = threading.Timer(0.1, lambda: writer.write(**written(5)))
    goes_on.start()
    assert reader.read().running == 5
    goes_on.join()
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    with pytest.raises(RuntimeError, match="its process died while it wrote"):
        RecordReader(segment, OFFSET).read()


BUSY, SATISFIED = 1, 2


def goes_on(segment: Segment, rank: int, started: float, seconds: float, *, satisfied: bool) -> bool:
    """Whether a rank's loop goes on: for `seconds`, and on a loaded machine until all saw enough."""
    if satisfied:
        segment.memory[rank] = SATISFIED
    took = time.monotonic() - started
    return took < seconds or (took < 20 * seconds and segment.memory[:3] != bytes([SATISFIED] * 3))


def write_or_read(segment: Segment, rank: int, seconds: float) -> int:
    """Rank 0 writes as fast as it can; the others look for a record or a step that is not whole."""
    segment.memory[rank] = BUSY
    while 0 in segment.memory[:3]:
        time.sleep(0.001)
    started, seen = time.monotonic(), set[int]()
    writer, reader = RecordWriter(segment, OFFSET), RecordReader(segment, OFFSET)
    number = latest = 0
    while goes_on(segment, rank, started, seconds, satisfied=number > 1000 or len(seen) > 100):
        if rank == 0:
            number += 1
            writer.step(Step(degree=number, batch=number, context_tokens=number, seconds=float(number)))
            writer.write(**written(number))
            continue
        record = reader.read()
        numbers = [
            value for name, value in dataclasses.asdict(record).items() if name not in ("at", "listed")
        ]
        assert len({float(value) for value in numbers}) == 1, numbers
        assert record.running >= latest, "a head that was cleared before it was written"
        latest = record.running
        for step in reader.new_steps():
            assert step.degree == step.batch == step.context_tokens == step.seconds, step
        seen.add(record.running)
    return number or len(seen)


def test_no_reader_ever_sees_a_torn_record() -> None:
    writes, *reads = run_ranks(write_or_read, 3, OFFSET + RECORD_BYTES, 1.5)
    assert writes > 1000
    assert min(reads) > 100


def write_or_list(segment: Segment, rank: int, seconds: float) -> int:
    """Rank 0 writes; the others look for a list whose rows are of different moments."""
    segment.memory[rank] = BUSY
    while 0 in segment.memory[:3]:
        time.sleep(0.001)
    started, seen = time.monotonic(), set[int]()
    writer, reader = RecordWriter(segment, OFFSET), RecordReader(segment, OFFSET)
    number = 0
    while goes_on(segment, rank, started, seconds, satisfied=number > 1000 or len(seen) > 10):
        if rank == 0:
            number += 1
            writer.write(**written(0) | {"running": number % 97, "live": [(number, number)] * (number % 97)})
            continue
        live = reader.live()
        if live:
            numbers = {one.number for one in live} | {one.decoded_tokens for one in live}
            assert len(numbers) == 1, numbers
            assert len(live) == next(iter(numbers)) % 97
            seen.update(numbers)
    return number or len(seen)


def test_no_reader_ever_sees_a_list_of_two_moments() -> None:
    writes, *reads = run_ranks(write_or_list, 3, OFFSET + RECORD_BYTES, 1.5)
    assert writes > 1000
    assert min(reads) > 10


def test_a_list_that_lacks_a_running_request_is_not_given(ends: Ends) -> None:
    writer, reader, _ = ends
    writer.write(**written(0) | {"running": 2, "live": [(7, 3), (8, 0)]})
    assert reader.live() == [
        LiveRecord(number=7, decoded_tokens=3),
        LiveRecord(number=8, decoded_tokens=0),
    ]
    many = [(number, 1) for number in range(MAX_LIVE + 1)]
    writer.write(**written(0) | {"running": len(many), "live": many})
    assert reader.live() is None
    writer.write(**written(0))
    assert reader.live() == []


def test_a_list_that_is_being_written_is_not_given(ends: Ends) -> None:
    writer, reader, segment = ends
    writer.write(**written(0) | {"running": 1, "live": [(7, 3)]})
    struct.pack_into("<Q", segment.memory, OFFSET, 99)
    assert reader.live() is None


def test_groups_that_are_stopped_wait_for_the_one_whose_step_ends_last(ends: Ends) -> None:
    ends[0].write(**written(0))
    one = ends[1].read()
    early = dataclasses.replace(one, at=100.0, running=3, step_seconds=0.5)
    late = dataclasses.replace(one, at=100.3, running=1, step_seconds=0.4)
    idle = dataclasses.replace(one, at=90.0, running=0, step_seconds=9.0)
    assert boundary_seconds([early, late, idle], 100.4) == pytest.approx(0.3 - 0.1)
    # The first one is making its next step by then.
    assert boundary_seconds([early, late], 100.6) == pytest.approx(0.4 - 0.1)
    fresh = dataclasses.replace(one, at=100.0, running=1, step_seconds=0.0)
    assert boundary_seconds([early, fresh], 100.1) == 0.0
    assert boundary_seconds([early, idle], 100.1) == boundary_seconds([idle], 100.1) == 0.0


def test_a_request_is_named_by_its_number() -> None:
    assert request_number(name_request(12, "a-b-3")) == 12


def test_a_machine_with_another_memory_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_platform()
    monkeypatch.setattr(records.platform, "machine", lambda: "aarch64")
    with pytest.raises(RuntimeError, match=r"this one is aarch64: set rollout\.footprint to 1"):
        check_platform()
