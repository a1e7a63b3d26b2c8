"""Weights from the trainer's ranks to a replica's ranks: addresses, and the receiving end (VeRL 0.9.1).

Rank r of a footprint sends the full tensors to rank r of the replica: each pair has one sender and one
receiver. This module runs in the rank processes, so it imports nothing of VeRL but its device interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from verl.utils.device import get_device_id, get_device_name

from taper_rollout.verl.weights.buckets import Receiver

SOURCE = "taper_rollout.verl.weights.delivery:receive_buckets"


def receive_buckets(arguments: dict[str, Any]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The tensors for the rank of this process (`Receiver.buckets`).

    `arguments`: the rank's item of `transfer_arguments`. Raises `TransferFailed`.
    """
    device = get_device_id()
    receiver = Receiver(
        zmq_handle=arguments["address"],
        device=device if isinstance(device, torch.device) else torch.device(get_device_name(), device),
        use_shm=arguments["shared_memory"],
    )
    yield from receiver.buckets()


def rank_address(channel: str, transfer: int, rank: int) -> str:
    """The socket of a pair, in Linux's abstract namespace, so that no file can be left behind.

    Each transfer has its own address, as one is free again only some time after its socket was closed.
    """
    return f"ipc://@taper-{channel}-{transfer}-{rank}"


def transfer_arguments(
    channel: str, transfer: int, num_ranks: int, *, shared_memory: bool
) -> list[dict[str, Any]]:
    """The arguments of `receive_buckets`, per rank."""
    return [
        {"address": rank_address(channel, transfer, rank), "shared_memory": shared_memory}
        for rank in range(num_ranks)
    ]
