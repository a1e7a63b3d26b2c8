"""Runs a function in several processes, as ranks are: with one segment, and results or errors back."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

from taper_rollout.shared_memory.segment import Segment

# Forked, so that functions of a test module need no import path in the child.
_context = multiprocessing.get_context("fork")


def _child(function: Callable[..., Any], segment: Segment, rank: int, arguments: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        results.send((True, function(segment, rank, *arguments)))
    except BaseException:
        results.send((False, traceback.format_exc()))


def run_ranks(
    function: Callable[..., Any],
    num_ranks: int,
    size_bytes: int,
    *arguments: Any,
    seconds: float = 60.0,
) -> list[Any]:
    """`function(segment, rank, *arguments)` in a process for each rank; its results in rank order.

    Raises AssertionError with the traceback of the first rank that failed or hung.
    """
    segment = Segment.create("taper-test", size_bytes)
    started: list[tuple[Any, Any]] = []
    try:
        for rank in range(num_ranks):
            receiver, sender = _context.Pipe(duplex=False)
            process = _context.Process(
                target=_child, args=(function, segment, rank, arguments, sender), daemon=True
            )
            process.start()
            sender.close()
            started.append((process, receiver))
        results = []
        for rank, (_, receiver) in enumerate(started):
            assert receiver.poll(seconds), f"rank {rank} gave no result in {seconds} s"
            fine, value = receiver.recv()
            assert fine, f"rank {rank}: {value}"
            results.append(value)
        return results
    finally:
        for process, _ in started:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
        segment.close()
