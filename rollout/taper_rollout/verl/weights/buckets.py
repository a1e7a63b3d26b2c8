"""VeRL's bucketed weight transfer (VeRL 0.9.1), with deadlines and clean-up.

A sender packs tensors into one buffer (device memory behind CUDA IPC, or a shared-memory segment on
CPU), sends the receiver their offsets over a socket, and refills the buffer once the receiver has
answered. VeRL's two ends wait for each other forever. Here each wait ends with `TransferFailed` after
`silence_seconds`, or as soon as `check` raises. The receiver is a generator instead of a callback.
Nothing is left in `/dev/shm`: the sender unlinks the segment on every exit, and the receiver maps it
without owning it.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import sys
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import zmq

TRANSFER_MODULE = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"
SILENCE_SECONDS = 120.0
_POLL_MILLISECONDS = 200
# How long a closed socket may take to deliver pending data.
_LINGER_MILLISECONDS = 1000


def _load_transfer() -> Any:
    """VeRL's module, by its path: its package cannot be imported without vLLM, which it does not need."""
    if TRANSFER_MODULE in sys.modules:
        return sys.modules[TRANSFER_MODULE]
    verl = importlib.util.find_spec("verl")
    assert verl is not None
    assert verl.submodule_search_locations
    file = Path(verl.submodule_search_locations[0], *TRANSFER_MODULE.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(TRANSFER_MODULE, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[TRANSFER_MODULE] = module
    return module


_transfer: Any = _load_transfer()
_still_mapped: list[mmap.mmap] = []


class TransferFailed(RuntimeError):
    """The other end of a weight transfer is gone or does not answer."""


def _nothing() -> None:
    """The default check, which always passes."""


class _DeadlineSocket:
    """A ZeroMQ socket whose waits end after `silence_seconds`, or when `check` raises."""

    def __init__(self, socket: Any, silence_seconds: float, check: Callable[[], None]) -> None:
        self._socket = socket
        self._silence_seconds = silence_seconds
        self._check = check

    def _wait(self, event: int, what: str) -> None:
        deadline = time.monotonic() + self._silence_seconds
        while not self._socket.poll(_POLL_MILLISECONDS, event):
            self._check()
            if time.monotonic() > deadline:
                raise TransferFailed(f"weight transfer: {what} for {self._silence_seconds:g} s")

    def recv(self) -> bytes:
        self._wait(zmq.PollEvent.POLLIN, "the other end did not answer")
        data: bytes = self._socket.recv()
        return data

    def recv_pyobj(self) -> Any:
        self._wait(zmq.PollEvent.POLLIN, "the other end did not answer")
        return self._socket.recv_pyobj()

    def send(self, data: bytes) -> None:
        self._wait(zmq.PollEvent.POLLOUT, "the other end did not take the data")
        self._socket.send(data)

    def send_pyobj(self, value: Any) -> None:
        self._wait(zmq.PollEvent.POLLOUT, "the other end did not take the data")
        self._socket.send_pyobj(value)

    def close(self) -> None:
        self._socket.close(linger=_LINGER_MILLISECONDS)


class _Sender(_transfer.BucketedWeightSender):
    def __init__(self, *, silence_seconds: float, check: Callable[[], None], **settings: Any) -> None:
        super().__init__(**settings)
        self._silence_seconds = silence_seconds
        self._check = check

    def _init_socket(self) -> None:
        super()._init_socket()
        self.socket: Any = _DeadlineSocket(self.socket, self._silence_seconds, self._check)


class Receiver(_transfer.BucketedWeightReceiver):
    """The receiving end, with VeRL's arguments."""

    def _init_socket(self) -> None:
        super()._init_socket()
        self.socket: Any = _DeadlineSocket(self.socket, SILENCE_SECONDS, _nothing)

    def _init_buffer(self) -> None:
        if not self.use_shm:
            super()._init_buffer()
            return
        segment = self.socket.recv_pyobj()
        self.shm: mmap.mmap | None = _map(segment["name"], segment["size"])
        self.buffer: Any = torch.frombuffer(self.shm, dtype=torch.uint8)
        self.socket.send(b"")

    def buckets(self) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """VeRL's `receive_weights` as a generator: each bucket a list of (name, full tensor).

        The tensors are views of the transfer buffer: they are valid until the next bucket is requested,
        and the list is cleared then. Raises `TransferFailed` if the sender does not answer. If the
        consumer stops early, the sender gets no answer and fails too.
        """
        try:
            self._init_socket()
            self._init_buffer()
            is_last = False
            while not is_last:
                message = self.socket.recv_pyobj()
                is_last = message["is_last"]
                bucket = [(name, self._tensor(meta)) for name, meta in message["bucket_meta"].items()]
                yield bucket
                _transfer.get_torch_device().synchronize()
                bucket.clear()
                if not is_last:
                    self.socket.send(b"")
            self._ack_pending = True
        finally:
            self._unmap()
            self._cleanup()

    def _tensor(self, meta: dict[str, Any]) -> torch.Tensor:
        shape, dtype, offset, handle = meta["shape"], meta["dtype"], meta["offset"], meta["handle"]
        if handle is not None:
            whole: torch.Tensor = _transfer.rebuild_ipc(handle, self.device.index)
            return whole
        num_bytes = dtype.itemsize * shape.numel()
        view: torch.Tensor = self.buffer[offset : offset + num_bytes].view(dtype=dtype).view(shape)
        return view

    def _unmap(self) -> None:
        """Close the mapping. VeRL's own clean-up would raise while a tensor is in use."""
        self.buffer = None
        if self.shm is not None:
            _still_mapped.append(self.shm)
            self.shm = None
        _still_mapped[:] = [segment for segment in _still_mapped if not _closed(segment)]


async def send_buckets(
    weights: Iterable[tuple[str, torch.Tensor]] | AsyncIterable[tuple[str, torch.Tensor]],
    *,
    address: str,
    bucket_mebibytes: int,
    shared_memory: bool,
    silence_seconds: float = SILENCE_SECONDS,
    check: Callable[[], None] = _nothing,
) -> None:
    """Send full tensors to the receiver at `address`.

    Raises `TransferFailed` if the receiver does not answer, whatever `check` raises (called several
    times a second while waiting), and `AssertionError` for a tensor larger than a bucket in shared
    memory.
    """
    sender = _Sender(
        zmq_handle=address,
        bucket_size_mb=bucket_mebibytes,
        use_shm=shared_memory,
        silence_seconds=silence_seconds,
        check=check,
    )
    await sender.async_send_weights(weights)


def _map(name: str, num_bytes: int) -> mmap.mmap:
    """Map the sender's segment. `SharedMemory` would also unlink it when this process ends."""
    file = os.open(f"/dev/shm/{name}", os.O_RDWR)
    try:
        return mmap.mmap(file, num_bytes)
    finally:
        os.close(file)


def _closed(segment: mmap.mmap) -> bool:
    try:
        segment.close()
    except BufferError:
        return False  # a tensor of the last bucket is still in use; retried at the next transfer
    return True
