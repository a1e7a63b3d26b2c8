"""Child processes and their shared memory are gone after a run, even if their parent died first."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from taper_rollout.job.child_processes import SHARED_MEMORY, Descendants

# The child maps a segment and ignores SIGTERM. Its parent exits on a line of input.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
sys.stdin.readline()
"""
CHILD = """
import signal, time
from multiprocessing import resource_tracker, shared_memory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
segment = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(segment._name, "shared_memory")
print(segment.name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> tuple[subprocess.Popen[str], Descendants, int, Path]:
    descendants = Descendants()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child, segment = parent.stdout.readline().split()
    return parent, descendants, int(child), SHARED_MEMORY / segment


def test_an_orphan_and_its_segment_are_removed(
    family: tuple[subprocess.Popen[str], Descendants, int, Path],
) -> None:
    parent, descendants, child, segment = family
    descendants.look()
    parent.communicate("go\n", timeout=20)
    assert psutil.pid_exists(child)
    assert segment.exists()
    descendants.end()
    assert not segment.exists()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the orphan still runs"
        time.sleep(0.05)


def test_what_ran_before_is_left_alone() -> None:
    earlier = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        descendants = Descendants()
        descendants.look()
        descendants.end()
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()
