"""Weights arrive bit-equal in a rank's process, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from . import weight_ends as ends

# Forked: importing VeRL and SGLang takes seconds, in each process.
_context = multiprocessing.get_context("fork")
Start = Callable[..., tuple[ForkProcess, Connection]]


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("verl_weights_*")}


def in_process(role: Callable[..., None], channel: str, reports: Connection, *arguments: Any) -> None:
    torch.set_num_threads(1)  # the pool of the process that was forked has no threads here
    role(channel, reports.send, *arguments)
    reports.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an end: its process, and what it reports. Those of a test share a channel and end with it."""
    channel = uuid.uuid4().hex
    processes: list[ForkProcess] = []

    def started(role: Callable[..., None], *arguments: Any) -> tuple[ForkProcess, Connection]:
        receiver, reports = _context.Pipe(duplex=False)
        process = _context.Process(target=in_process, args=(role, channel, reports, *arguments), daemon=True)
        process.start()
        reports.close()
        processes.append(process)
        return process, receiver

    yield started
    for process in processes:
        process.kill()
        process.join()


def exit_code(process: ForkProcess) -> int | None:
    process.join(30)
    return process.exitcode


def test_two_transfers_are_bit_equal(start: Start) -> None:
    before = segments()
    sender, failures = start(ends.send, 60.0)
    receiver, received = start(ends.receive)
    for transfer in range(ends.NUM_TRANSFERS):
        assert received.poll(60)
        result = received.recv()
        assert result["digests"] == ends.digests(ends.tensors(transfer))
        assert result["buckets"] > 5
    assert (exit_code(sender), exit_code(receiver)) == (0, 0)
    with pytest.raises(EOFError):
        failures.recv()
    assert segments() == before


def test_a_sender_whose_partner_dies_fails_by_its_deadline_and_cleans_up(start: Start) -> None:
    before = segments()
    dying, _ = start(ends.die)
    sender, failures = start(ends.send, 3.0)
    assert failures.poll(60)
    result = failures.recv()
    assert "the other end did not answer for 3 s" in result["failed"]
    assert result["seconds"] < 30
    assert exit_code(dying) == -9
    assert exit_code(sender) == 0
    assert segments() == before
