"""A sequence lock over one struct in shared memory: one writer, any number of readers, nobody blocks.

The struct begins with a sequence number that is odd while the rest is being written. A
reader copies the struct twice and takes it where both copies are equal and the number is
even; otherwise it reads again.

Correct only where stores become visible in program order, which x86-64 guarantees:
`rank_record.check_platform` refuses other machines.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

ATTEMPTS = 100
_SEQUENCE = struct.Struct("<Q")


class LockedWriter:
    """The writing end of a struct at `offset`. Its `layout` begins with `Q`, the sequence number."""

    def __init__(self, memory: mmap.mmap, offset: int, layout: struct.Struct) -> None:
        self._memory, self._offset, self._layout, self._sequence = memory, offset, layout, 0

    def begin(self) -> None:
        """Lock: what a reader copies from now on is not whole."""
        self._sequence += 2
        self._put(_SEQUENCE.pack(self._sequence - 1))

    def end(self, *values: Any) -> None:
        """Write the struct's values, without the sequence number, and unlock."""
        self._put(self._layout.pack(self._sequence - 1, *values))
        self._put(_SEQUENCE.pack(self._sequence))

    def _put(self, data: bytes) -> None:
        """Copy into place. `pack_into` would clear the place first: a sequence number of 0 looks whole."""
        self._memory[self._offset : self._offset + len(data)] = data


def read_whole(memory: mmap.mmap, offset: int, layout: struct.Struct) -> tuple[Any, ...] | None:
    """The struct's values without its sequence number; None where it was locked at each of `ATTEMPTS`."""
    for _ in range(ATTEMPTS):
        first = layout.unpack_from(memory, offset)
        if first[0] % 2 == 0 and first == layout.unpack_from(memory, offset):
            return first[1:]
    return None
