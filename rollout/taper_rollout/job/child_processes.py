"""Ends the child processes of a run, and removes their shared memory, so that nothing outlives it.

Ray ends its own workers but not their children, and a killed process leaves its files in /dev/shm.
Parents and mappings can be read only while a process lives, so `look` records both before Ray is shut
down, and `end` ends what is left.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

SHARED_MEMORY = Path("/dev/shm")
TERM_SECONDS = 5.0
KILL_SECONDS = 5.0


class Descendants:
    """The descendants of this process that were started after this object was created."""

    def __init__(self) -> None:
        self._before = set(_descendants())
        self._recorded: set[psutil.Process] = set()
        self._segments: set[Path] = set()

    def look(self) -> None:
        """Record the descendants that live now, and their files in shared memory."""
        self._recorded |= set(_descendants()) - self._before
        for process in self._recorded:
            self._segments |= _segments_of(process)

    def end(self) -> None:
        """End the recorded processes, then remove those of their segments that no live process maps.

        A process id that was reused for another process is left alone: `psutil` compares start times.
        """
        running = [process for process in self._recorded if process.is_running()]
        for process in running:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(running, timeout=TERM_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=KILL_SECONDS)
        left = {path for path in self._segments if path.exists()}
        if left:
            for process in psutil.process_iter():
                left -= _segments_of(process)
        for path in left:
            path.unlink(missing_ok=True)


def _descendants() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


def _segments_of(process: psutil.Process) -> set[Path]:
    """Files in /dev/shm that the process maps; none if it is gone or may not be inspected."""
    try:
        mapped = {Path(region.path) for region in process.memory_maps()}
    except (psutil.Error, OSError):
        return set()
    return {path for path in mapped if path.parent == SHARED_MEMORY}
