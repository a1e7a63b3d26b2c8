"""Weights arrive bit-equal in a rank's process, and nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ENDS = Path(__file__).with_name("weight_ends.py")
Start = Callable[..., "subprocess.Popen[str]"]


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("verl_weights_*")}


def load_ends() -> Any:
    spec = importlib.util.spec_from_file_location("weight_ends", ENDS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a role of `weight_ends.py`. The processes of a test share a channel and end with the test."""
    channel = uuid.uuid4().hex
    processes: list[subprocess.Popen[str]] = []

    def run(role: str, silence_seconds: float = 60) -> subprocess.Popen[str]:
        environment = os.environ | {
            "VERL_PLATFORM": "cpu",
            "OMP_NUM_THREADS": "1",
            "SILENCE_SECONDS": str(silence_seconds),
        }
        process = subprocess.Popen(
            [sys.executable, str(ENDS), role, channel], stdout=subprocess.PIPE, text=True, env=environment
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_two_transfers_are_bit_equal(start: Start) -> None:
    before, ends = segments(), load_ends()
    sender, receiver = start("send"), start("receive")
    output, _ = receiver.communicate(timeout=100)
    assert sender.communicate(timeout=30)[0] == ""
    assert (sender.returncode, receiver.returncode) == (0, 0)
    for transfer, line in enumerate(output.splitlines()):
        result = json.loads(line)
        assert result["digests"] == ends.digests(ends.tensors(transfer))
        assert result["buckets"] > 5
    assert len(output.splitlines()) == ends.NUM_TRANSFERS
    assert segments() == before


def test_a_sender_whose_partner_dies_fails_by_its_deadline_and_cleans_up(start: Start) -> None:
    before = segments()
    dying = start("die")
    assert dying.stdout is not None
    assert dying.stdout.readline() == "ready\n"  # so that the silence is no slow import
    sender = start("send", silence_seconds=3)
    result = json.loads(sender.communicate(timeout=110)[0])
    assert "the other end did not answer for 3 s" in result["failed"]
    assert result["seconds"] < 30
    assert dying.wait(10) == -9
    assert sender.returncode == 0
    assert segments() == before
