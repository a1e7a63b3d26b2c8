"""Collectives over shared memory for the CPU ranks of one replica.

gloo needs 350-1,100 microseconds for a small all-reduce between two processes of one
machine; this needs 15-40. Each group owns a region of the replica's segment: one flag a
rank (the number of the last exchange it has published) and two data slots a rank, used
alternately. A rank may overwrite a slot of exchange n in exchange n+2, because it has
then seen every peer's flag at n+1 and so knows that all have finished reading n.

Sums run over the ranks in shard order on every rank, so all ranks hold the same bits.

Waiting is polite. A waiter first looks `SPINS` times, then yields its core, then sleeps
in a futex on the flag it waits for; a publisher wakes only those who said that they
sleep. Where ranks outnumber cores the spinning is left out, so four ranks run on two
cores and an idle group costs nothing. Every wait has a deadline.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import time
from collections.abc import Sequence
from typing import Any

import torch

from taper_rollout.shared_memory.segment import Segment

SLOT_BYTES = 4 << 20
FLAG_BYTES = 128
SPINS = 400
YIELDS = 200
# A peer that published just before this rank said that it sleeps wakes nobody: the first sleeps are
# short, and the longer a wait lasts the less it looks.
FUTEX_SECONDS = (0.002, 0.05)
_SYS_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE = 202, 0, 1
_libc = ctypes.CDLL(None, use_errno=True)


class CollectiveTimeout(RuntimeError):
    """A peer did not take part in a collective before its deadline."""


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def region_bytes(num_ranks: int, slot_bytes: int = SLOT_BYTES) -> int:
    """Size of the region that a group of `num_ranks` needs."""
    return num_ranks * FLAG_BYTES + 2 * num_ranks * slot_bytes


class SharedMemoryGroup:
    """One rank's end of a group. `ranks` is in shard order and equal on all ranks of the group."""

    def __init__(
        self,
        segment: Segment,
        offset: int,
        ranks: Sequence[int],
        rank: int,
        *,
        timeout_seconds: float,
        slot_bytes: int = SLOT_BYTES,
        oversubscribed: bool = False,
    ) -> None:
        self.ranks, self.rank, self.size = tuple(ranks), rank, len(ranks)
        self.index = self.ranks.index(rank)
        self.timeout_seconds = timeout_seconds
        self.slot_bytes = slot_bytes
        self._spins, self._yields = (0, 4) if oversubscribed else (SPINS, YIELDS)
        flags_bytes = self.size * FLAG_BYTES
        # Flag i: word 0 is the last published exchange, word 8 (another cache line) says "I sleep".
        self._flags = memoryview(segment.memory)[offset : offset + flags_bytes].cast("q")
        whole = torch.frombuffer(segment.memory, dtype=torch.uint8, offset=offset, count=flags_bytes)
        self._flags_address = whole.data_ptr()
        self._exchange = 0
        data = torch.frombuffer(
            segment.memory,
            dtype=torch.uint8,
            offset=offset + flags_bytes,
            count=2 * self.size * slot_bytes,
        ).view(2, self.size, slot_bytes)
        self._slots = [[data[parity, i] for i in range(self.size)] for parity in range(2)]
        self._typed: dict[tuple[torch.dtype, int], list[list[torch.Tensor]]] = {}

    # -- the one primitive -------------------------------------------------------------

    def _publish(self) -> None:
        self._exchange += 1
        stride = FLAG_BYTES // 8
        self._flags[self.index * stride] = self._exchange
        for peer in range(self.size):
            if peer != self.index and self._flags[peer * stride + 8]:
                _libc.syscall(
                    _SYS_FUTEX,
                    ctypes.c_void_p(self._flags_address + self.index * FLAG_BYTES),
                    _FUTEX_WAKE,
                    2**30,
                    None,
                )
                break

    def _await(self, peer: int, wanted: int, deadline: float) -> None:
        flags, at = self._flags, peer * (FLAG_BYTES // 8)
        for _ in range(self._spins):
            if flags[at] >= wanted:
                return
        for _ in range(self._yields):
            if flags[at] >= wanted:
                return
            os.sched_yield()
        self._sleep_until(peer, wanted, deadline)

    def _sleep_until(self, peer: int, wanted: int, deadline: float) -> None:
        flags, at, mine = self._flags, peer * (FLAG_BYTES // 8), self.index * (FLAG_BYTES // 8) + 8
        shortest, longest = (int(seconds * 1e9) for seconds in FUTEX_SECONDS)
        patience = _Timespec(0, shortest)
        flags[mine] = 1
        try:
            while (seen := flags[at]) < wanted:
                if time.monotonic() > deadline:
                    raise CollectiveTimeout(
                        f"rank {self.rank}: rank {self.ranks[peer]} did not join exchange {wanted} "
                        f"of group {self.ranks} within {self.timeout_seconds:.0f} s"
                    )
                _libc.syscall(
                    _SYS_FUTEX,
                    ctypes.c_void_p(self._flags_address + peer * FLAG_BYTES),
                    _FUTEX_WAIT,
                    ctypes.c_uint32(seen & 0xFFFFFFFF),
                    ctypes.byref(patience),
                )
                patience.tv_nsec = min(longest, 2 * patience.tv_nsec)
        finally:
            flags[mine] = 0

    def _await_all(self) -> None:
        wanted = self._exchange
        deadline = time.monotonic() + self.timeout_seconds
        for peer in range(self.size):
            if peer != self.index:
                self._await(peer, wanted, deadline)

    def _views(self, dtype: torch.dtype, count: int) -> list[torch.Tensor]:
        """The next exchange's slots as `count` elements of `dtype`; cached, as decode repeats its shapes."""
        key = (dtype, count)
        views = self._typed.get(key)
        if views is None:
            if len(self._typed) > 512:
                self._typed.clear()
            size_bytes = count * dtype.itemsize
            views = self._typed[key] = [
                [slot[:size_bytes].view(dtype) for slot in parity] for parity in self._slots
            ]
        return views[(self._exchange + 1) & 1]

    # -- collectives -------------------------------------------------------------------

    def barrier(self) -> None:
        self._publish()
        self._await_all()

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over the group, in place. Any shape; contiguous or not."""
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
        step = self.slot_bytes // tensor.element_size()
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            views = self._views(part.dtype, part.numel())
            views[self.index].copy_(part)
            self._publish()
            self._await_all()
            torch.add(views[0], views[1], out=part)
            for view in views[2:]:
                part.add_(view)
        if not tensor.is_contiguous():
            tensor.copy_(flat.view(tensor.shape))
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Concatenate the ranks' tensors (equal shapes) along `dim`, in shard order."""
        flat = tensor.contiguous().view(-1)
        step = self.slot_bytes // tensor.element_size()
        parts = [torch.empty_like(flat) for _ in range(self.size)]
        for start in range(0, flat.numel(), step):
            piece = flat[start : start + step]
            views = self._views(piece.dtype, piece.numel())
            views[self.index].copy_(piece)
            self._publish()
            self._await_all()
            for part, view in zip(parts, views, strict=True):
                part[start : start + step].copy_(view)
        return torch.cat([part.view(tensor.shape) for part in parts], dim)

    def broadcast_object(self, value: Any, source_index: int = 0) -> Any:
        """Hand the source's picklable value to all ranks. Only for processes of this replica."""
        if self.index == source_index:
            self.broadcast_bytes(b"" if value is None else pickle.dumps(value, protocol=5), source_index)
            return value
        received = self.broadcast_bytes(b"", source_index)
        return pickle.loads(received) if received else None

    def broadcast_bytes(self, payload: bytes, source_index: int) -> bytes:
        """Hand the source's bytes to all ranks; the others' `payload` is ignored."""
        room = self.slot_bytes - 8
        received = bytearray()
        sent = 0
        while True:
            slot = self._slots[(self._exchange + 1) & 1][source_index]
            if self.index == source_index:
                piece = payload[sent : sent + room]
                sent += len(piece)
                slot[:8].view(torch.int64)[0] = (len(payload) - sent) << 32 | len(piece)
                if piece:
                    slot[8 : 8 + len(piece)].copy_(torch.frombuffer(bytearray(piece), dtype=torch.uint8))
            self._publish()
            self._await_all()
            header = int(slot[:8].view(torch.int64)[0])
            if self.index != source_index:
                received += slot[8 : 8 + (header & 0xFFFFFFFF)].numpy().tobytes()
            if header >> 32 == 0:
                return bytes(received)
