"""The processes below this one, and the shared memory that they use: none may outlive a run.

Ray ends its own workers, but not what those started, and a process that is killed leaves
its files in /dev/shm. Parentage and mappings can be read only while the processes live, so
`look` notes both before Ray is shut down, and `end` finishes what is left of them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

SHARED_MEMORY = Path("/dev/shm")
TERM_SECONDS = 5.0
KILL_SECONDS = 5.0


class Descendants:
    """Processes started below this one since the object was made, in any generation."""

    def __init__(self) -> None:
        self._before = set(_below())
        self._noted: set[psutil.Process] = set()
        self._segments: set[Path] = set()

    def look(self) -> None:
        """Note the descendants that live now, and their files in shared memory."""
        self._noted |= set(_below()) - self._before
        for process in self._noted:
            self._segments |= _segments_of(process)

    def end(self) -> None:
        """End the noted processes that still run, then remove their segments that no live process maps.

        A process id that was given to another process since is left alone: `psutil`
        compares the time of start.
        """
        running = [process for process in self._noted if process.is_running()]
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


def _below() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


def _segments_of(process: psutil.Process) -> set[Path]:
    """Files in /dev/shm that the process maps; none if it is gone or not ours to look at."""
    try:
        mapped = {Path(region.path) for region in process.memory_maps()}
    except (psutil.Error, OSError):
        return set()
    return {path for path in mapped if path.parent == SHARED_MEMORY}
