"""What the two ends of a weight transfer do, each in its own process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from taper_rollout.verl.weights.buckets import TransferFailed, send_buckets
from taper_rollout.verl.weights.delivery import rank_address, receive_buckets, transfer_arguments

NUM_TRANSFERS = 2

Report = Callable[[dict[str, Any]], None]


def tensors(seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Odd shapes and mixed types, several buckets of 1 MiB, a scalar, a transposed one."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(20):
        yield f"matrix.{index}", torch.randn(150 + 3 * index, 1000, generator=generator)
        yield f"half.{index}", torch.randn(7 + index, generator=generator).to(torch.bfloat16)
        yield f"whole.{index}", torch.randint(0, 100, (index + 1, 3), generator=generator)
    yield "scalar", torch.tensor(seed + 0.5)
    yield "transposed", torch.randn(40, 50, generator=generator).t()


def digests(items: Any) -> dict[str, str]:
    """A hash of the type, shape and bits of each tensor."""
    result = {}
    for name, tensor in items:
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        result[name] = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + data).hexdigest()
    return result


def send(channel: str, report: Report, silence_seconds: float) -> None:
    """A trainer rank. Reports its error, if any, and after how many seconds it came."""
    started = time.monotonic()
    try:
        for transfer in range(NUM_TRANSFERS):
            asyncio.run(
                send_buckets(
                    tensors(transfer),
                    address=rank_address(channel, transfer, 0),
                    bucket_mebibytes=1,
                    shared_memory=True,
                    silence_seconds=silence_seconds,
                )
            )
    except TransferFailed as error:
        report({"failed": str(error), "seconds": time.monotonic() - started})


def receive(channel: str, report: Report) -> None:
    """A replica's rank. It keeps a tensor, which must not block the end of a transfer."""
    for transfer in range(NUM_TRANSFERS):
        received: dict[str, str] = {}
        num_buckets, held = 0, None
        for bucket in receive_buckets(transfer_arguments(channel, transfer, 1, shared_memory=True)[0]):
            received.update(digests(bucket))
            num_buckets, held = num_buckets + 1, bucket[-1][1]
        assert held is not None
        report({"buckets": num_buckets, "digests": received})


def die(channel: str, report: Report) -> None:
    """A rank that is killed during a transfer."""
    for _ in receive_buckets(transfer_arguments(channel, 0, 1, shared_memory=True)[0]):
        os.kill(os.getpid(), signal.SIGKILL)
