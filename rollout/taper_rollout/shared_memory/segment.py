"""Anonymous shared memory of one replica: a `memfd` that the facade makes and its rank processes inherit.

It has no name, so nothing can be left behind in `/dev/shm` and nobody else can open
it: the kernel frees it with the last process of the replica, however that one ends.
Pages cost memory only once they are written, so regions may be sized for the worst
case.

`Regions` deals out aligned parts of a segment, one after the other.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any

ALIGNMENT_BYTES = 4096


class Segment:
    """A mapped shared-memory segment of `size_bytes`; picklable only while a child process is spawned."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self.memory = mmap.mmap(fd, size_bytes)

    @classmethod
    def create(cls, name: str, size_bytes: int) -> Segment:
        """A new segment; `name` shows in /proc/PID/maps only. Raises OSError when the kernel refuses."""
        fd = os.memfd_create(name)
        os.ftruncate(fd, size_bytes)
        return cls(fd, size_bytes)

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last view of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (reduction.DupFd(self.fd), self.size_bytes)


def _attach(duplicate: Any, size_bytes: int) -> Segment:
    return Segment(duplicate.detach(), size_bytes)


class Regions:
    """Consecutive page-aligned regions: `take` returns the offset of the next one."""

    def __init__(self) -> None:
        self.end_bytes = 0

    def take(self, size_bytes: int) -> int:
        offset = self.end_bytes
        self.end_bytes += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return offset
