"""The replica's shared memory: nameless, sparse, and gone with its last process."""

from __future__ import annotations

import os
from pathlib import Path

from taper_rollout.shared_memory.segment import ALIGNMENT_BYTES, Regions, Segment

from ..sglang_unit.processes import run_ranks


def test_regions_are_aligned_and_do_not_overlap() -> None:
    regions = Regions()
    sizes = [1, ALIGNMENT_BYTES, ALIGNMENT_BYTES + 1, 0, 10]
    offsets = [regions.take(size) for size in sizes]
    assert offsets == [0, 4096, 8192, 16384, 16384]
    assert regions.end_bytes == 20480
    assert all(offset % ALIGNMENT_BYTES == 0 for offset in offsets)


def test_a_segment_has_no_name_and_starts_as_zeros() -> None:
    before = set(os.listdir("/dev/shm"))
    segment = Segment.create("taper-test", 1 << 20)
    assert segment.memory[: 1 << 20] == bytes(1 << 20)
    assert set(os.listdir("/dev/shm")) == before
    segment.close()


def resident_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Rss"))) << 10


def test_only_written_pages_cost_memory() -> None:
    segment = Segment.create("taper-test", 8 << 30)
    before = resident_bytes()
    assert resident_bytes() - before < 8 << 20
    segment.memory[1 << 20 : 33 << 20] = b"x" * (32 << 20)
    assert 30 << 20 < resident_bytes() - before < 40 << 20
    segment.close()


def write_and_read(segment: Segment, rank: int) -> bytes:
    segment.memory[10 * rank : 10 * rank + 4] = bytes([rank + 1]) * 4
    while not segment.memory[10 * (1 - rank)]:
        pass
    return segment.memory[10 * (1 - rank) : 10 * (1 - rank) + 4]


def test_processes_share_it() -> None:
    assert run_ranks(write_and_read, 2, 4096) == [b"\x02" * 4, b"\x01" * 4]


def test_closing_twice_is_fine() -> None:
    segment = Segment.create("taper-test", 4096)
    segment.close()
    segment.close()
