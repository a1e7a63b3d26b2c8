"""The progress record of each rank: what the coordinator sees of a running batch, without asking.

One fixed region a rank in the replica's segment, one writer (the rank), any number of
readers. The head is guarded by a sequence lock: odd while it is being written, and a
reader that meets a torn or odd head reads again. Each decode step is also put into a
ring of the last `RING_STEPS` steps, so that a reader that looks every few milliseconds
misses none. A step's own number is written before the rest of it, so that a reader finds
by a second look that a step was overwritten while it read.

Costs about 2 microseconds a write. The sequence lock relies on stores becoming visible
in program order, which x86-64 guarantees; `check_platform` refuses other machines.
"""

from __future__ import annotations

import dataclasses
import platform
import struct
import time

from taper_rollout.segment import Segment

RING_STEPS = 256
_HEAD = struct.Struct("<QdqqqqqqqqdQ")
_STEP = struct.Struct("<Qqqqd")
_HEAD_BYTES = 128
RECORD_BYTES = _HEAD_BYTES + RING_STEPS * 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankRecord:
    """A rank's state after its last step. Counters (`*_total`) only grow while the process lives."""

    at: float
    epoch: int
    degree: int
    running: int
    waiting: int
    longest_tokens: int
    decoded_tokens_total: int
    prefilled_tokens_total: int
    finished_total: int
    step_seconds: float
    steps_total: int


_FIELDS = tuple(field.name for field in dataclasses.fields(RankRecord))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One decode step of a rank: `batch` requests at `degree`, `context_tokens` in all."""

    degree: int
    batch: int
    context_tokens: int
    seconds: float


def check_platform() -> None:
    """Refuse machines whose memory model the shared-memory protocols were not written for."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise RuntimeError(
            f"shared-memory records need an x86-64 machine, this one is {platform.machine()}: "
            "set rollout.footprint to 1 or use x86-64 nodes"
        )


class RecordWriter:
    """The writing end, owned by one rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._memory, self._offset, self._sequence, self._steps = segment.memory, offset, 0, 0

    def step(self, step: Step) -> None:
        """Append a decode step to the ring; it becomes visible with the next `write`."""
        self._steps += 1
        slot = self._offset + _HEAD_BYTES + (self._steps % RING_STEPS) * 64
        _STEP.pack_into(
            self._memory, slot, self._steps, step.degree, step.batch, step.context_tokens, step.seconds
        )

    def write(
        self,
        *,
        epoch: int,
        degree: int,
        running: int,
        waiting: int,
        longest_tokens: int,
        decoded_tokens_total: int,
        prefilled_tokens_total: int,
        finished_total: int,
        step_seconds: float,
    ) -> None:
        """Publish the rank's state now."""
        self._sequence += 2
        struct.pack_into("<Q", self._memory, self._offset, self._sequence - 1)
        _HEAD.pack_into(
            self._memory,
            self._offset,
            self._sequence - 1,
            time.time(),
            epoch,
            degree,
            running,
            waiting,
            longest_tokens,
            decoded_tokens_total,
            prefilled_tokens_total,
            finished_total,
            step_seconds,
            self._steps,
        )
        struct.pack_into("<Q", self._memory, self._offset, self._sequence)


class RecordReader:
    """A reading end; `read` and `new_steps` never block the rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._memory, self._offset, self._seen_steps = segment.memory, offset, 0
        self._last: RankRecord | None = None
        self._torn_since: float | None = None

    def read(self) -> RankRecord:
        """The rank's latest state, or the one before while it writes.

        Raises RuntimeError where a record stays half-written for a second: the rank died.
        """
        for _ in range(100):
            first = _HEAD.unpack_from(self._memory, self._offset)
            if first[0] % 2 == 0 and first == _HEAD.unpack_from(self._memory, self._offset):
                self._torn_since = None
                self._last = RankRecord(**dict(zip(_FIELDS, first[1:], strict=True)))
                return self._last
        # The writer may have lost its core in the middle of a write.
        self._torn_since = self._torn_since or time.monotonic()
        if self._last is None or time.monotonic() - self._torn_since > 1.0:
            raise RuntimeError("a rank's progress record is torn: its process died while it wrote")
        return self._last

    def new_steps(self) -> list[Step]:
        """Decode steps published since the last call, oldest first, less those overwritten meanwhile."""
        total = self.read().steps_total
        first = max(self._seen_steps, total - RING_STEPS + 8) + 1
        steps = []
        for index in range(first, total + 1):
            slot = self._offset + _HEAD_BYTES + (index % RING_STEPS) * 64
            found = _STEP.unpack_from(self._memory, slot)
            if found[0] == index and found == _STEP.unpack_from(self._memory, slot):
                _, degree, batch, context_tokens, seconds = found
                steps.append(Step(degree=degree, batch=batch, context_tokens=context_tokens, seconds=seconds))
        self._seen_steps = total
        return steps
