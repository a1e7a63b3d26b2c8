"""The progress record of each rank: how the coordinator follows a running batch without asking the rank.

One fixed region a rank in the replica's segment, one writer (the rank), any number of
readers. The head is guarded by a sequence lock. Each decode step is also put into a
ring of the last `RING_STEPS` steps, so that a reader that polls every few milliseconds
misses none. A step's own number is written before the rest of it, so that a reader that
reads it twice notices that a step was overwritten meanwhile. The live requests,
up to `MAX_LIVE` of them, follow as rows of (number, decoded tokens), guarded by the head's lock.

Costs about a microsecond a write, and 0.2 more for each live request. The sequence lock
relies on stores becoming visible in program order, which x86-64 guarantees; `check_platform`
refuses other machines.
"""

from __future__ import annotations

import dataclasses
import platform
import struct
import time
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from taper_rollout.shared_memory.segment import Segment
from taper_rollout.shared_memory.sequence_lock import ATTEMPTS, LockedWriter, read_whole

RING_STEPS = 256
MAX_LIVE = 1024
TORN_SECONDS, TORN_POLL_SECONDS = 1.0, 0.001
_HEAD = struct.Struct("<QdqqqqqqdQ")
_STEP = struct.Struct("<Qqqqd")
_HEAD_BYTES = 128
_LIVE_BYTES = _HEAD_BYTES + RING_STEPS * 64
RECORD_BYTES = _LIVE_BYTES + MAX_LIVE * 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankRecord:
    """A rank's state after its last step. Counters (`*_total`) only grow while the process lives.

    `listed` of the running requests are listed one by one (`RecordReader.live`).
    """

    at: float
    degree: int
    running: int
    waiting: int
    listed: int
    longest_tokens: int
    prefilled_tokens_total: int
    step_seconds: float
    steps_total: int


def boundary_seconds(leaders: Iterable[RankRecord], at: float) -> float:
    """How long the first group to stop would wait for the last, if the switch command reached all at `at`.

    `leaders` are the records of each group's leader. A group stops after the step that it is making by
    then. Its steps are assumed to be as long as the last one; idle groups are ignored.
    """
    left = [
        one.step_seconds - (at - one.at) % one.step_seconds
        for one in leaders
        if one.running and one.step_seconds > 0
    ]
    return max(left, default=0.0) - min(left, default=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LiveRecord:
    """A running request: its number in the engine, and the tokens of its response so far."""

    number: int
    decoded_tokens: int


def name_request(number: int, request_id: str) -> str:
    """The engine's name of a request; no two requests of an engine have one number."""
    return f"{number:09d}-{request_id}"


def request_number(name: str) -> int:
    """The number in a name that `name_request` made."""
    return int(name.partition("-")[0])


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


def _rows(segment: Segment, offset: int) -> npt.NDArray[np.uint32]:
    return np.frombuffer(segment.memory, np.uint32, 2 * MAX_LIVE, offset + _LIVE_BYTES).reshape(MAX_LIVE, 2)


class RecordWriter:
    """The writing end, owned by one rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._memory, self._offset, self._steps = segment.memory, offset, 0
        self._lock = LockedWriter(segment.memory, offset, _HEAD)
        self._rows = _rows(segment, offset)

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
        degree: int,
        running: int,
        waiting: int,
        live: Sequence[tuple[int, int]],
        longest_tokens: int,
        prefilled_tokens_total: int,
        step_seconds: float,
    ) -> None:
        """Publish the rank's state now; `live` are (number, decoded tokens) of its running requests."""
        self._lock.begin()
        listed = min(len(live), MAX_LIVE)
        if listed:
            self._rows[:listed] = live[:listed]
        self._lock.end(
            time.time(),
            degree,
            running,
            waiting,
            listed,
            longest_tokens,
            prefilled_tokens_total,
            step_seconds,
            self._steps,
        )


class RecordReader:
    """A reading end; it never blocks the rank."""

    def __init__(self, segment: Segment, offset: int) -> None:
        self._memory, self._offset, self._seen_steps = segment.memory, offset, 0
        self._rows = _rows(segment, offset)
        self._last: RankRecord | None = None
        self._torn_since: float | None = None

    def read(self) -> RankRecord:
        """The rank's latest state, or the one before while it writes. The first call waits for a whole one.

        Raises RuntimeError where a record stays half-written for a second: the rank died.
        """
        while True:
            if (values := read_whole(self._memory, self._offset, _HEAD)) is not None:
                self._torn_since = None
                self._last = RankRecord(**dict(zip(_FIELDS, values, strict=True)))
                return self._last
            # The writer may have lost its core in the middle of a write.
            self._torn_since = self._torn_since or time.monotonic()
            if time.monotonic() - self._torn_since > TORN_SECONDS:
                raise RuntimeError("a rank's progress record is torn: its process died while it wrote")
            if self._last is not None:
                return self._last
            time.sleep(TORN_POLL_SECONDS)

    def live(self) -> list[LiveRecord] | None:
        """The running requests, all of one moment; None while the rank writes, or lists fewer than run."""
        for _ in range(ATTEMPTS):
            head = _HEAD.unpack_from(self._memory, self._offset)
            record = RankRecord(**dict(zip(_FIELDS, head[1:], strict=True)))
            rows = self._rows[: record.listed].tolist()
            if head[0] % 2 == 0 and head == _HEAD.unpack_from(self._memory, self._offset):
                if record.listed < record.running:
                    return None
                return [LiveRecord(number=number, decoded_tokens=decoded) for number, decoded in rows]
        return None

    def new_steps(self, record: RankRecord | None = None) -> list[Step]:
        """Decode steps published since the last call, oldest first, less those overwritten meanwhile.

        `record` is one that was just read, if the caller has it.
        """
        total = (record or self.read()).steps_total
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


def new_group_steps(readers: Sequence[RecordReader], records: Sequence[RankRecord]) -> list[Step]:
    """Decode steps of all groups since the last call, each once: from the record of the group's first rank.

    `readers` and the `records` that they have just read are those of all ranks, in order. The other
    ranks' records are read as well, and their steps dropped: otherwise steps from before a narrowing
    would count when such a rank leads a group.
    """
    return [
        step
        for rank, (reader, record) in enumerate(zip(readers, records, strict=True))
        for step in reader.new_steps(record)
        if rank % step.degree == 0
    ]
