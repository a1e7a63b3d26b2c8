"""The processes that this one has started since, in any generation, and what of them lives on."""

from __future__ import annotations

import time

import psutil  # type: ignore[import-untyped,unused-ignore]

_POLL_SECONDS = 0.5


class ProcessFamily:
    """See the module's docstring. What is between two looks is not known: parents must be seen alive."""

    def __init__(self) -> None:
        self._before = set(_below())
        self._seen: set[psutil.Process] = set()

    def look(self) -> None:
        """Note those that live now."""
        self._seen |= set(_below()) - self._before

    def survivors(self, seconds: float) -> list[str]:
        """Commands of those noted that still run after so many seconds."""
        ends_at = time.monotonic() + seconds
        while (running := [each for each in self._seen if _runs(each)]) and time.monotonic() < ends_at:
            time.sleep(_POLL_SECONDS)
        return [_command(each) for each in running]


def _below() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return str(process)
