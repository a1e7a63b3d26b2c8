"""The requests that a replica serves: how many, since when, and whether new ones may begin."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator


class ServedRequests:
    """`last_arrival_at` and `last_end_at` are seconds of `time.monotonic`. For one asyncio loop.

    New requests wait while the replica sleeps or holds them back; while it rejects them the
    coordinator answers without serving.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last_arrival_at = self.last_end_at = 0.0
        self.is_rejecting = False
        self._awake, self._open = asyncio.Event(), asyncio.Event()
        self._awake.set()
        self._open.set()

    async def admission(self) -> None:
        """Wait until a new request may begin."""
        await self._open.wait()
        await self._awake.wait()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Count a request while the body runs."""
        self.count += 1
        self.last_arrival_at = time.monotonic()
        try:
            yield
        finally:
            self.count -= 1
            self.last_end_at = time.monotonic()

    def hold(self, *, reject: bool) -> None:
        """Hold new requests back, or reject them, until `release`."""
        self._open.clear()
        self.is_rejecting = reject

    def release(self) -> None:
        self.is_rejecting = False
        self._open.set()

    @property
    def is_asleep(self) -> bool:
        return not self._awake.is_set()

    def sleep(self) -> None:
        self._awake.clear()

    def wake(self) -> None:
        self._awake.set()

    def check_none(self) -> None:
        """Raises RuntimeError while requests are being served."""
        if self.count:
            raise RuntimeError(f"{self.count} requests are still being served: abort them first")

    def idle_for(self, seconds: float) -> bool:
        """Whether the last request ended so long ago."""
        return not self.count and time.monotonic() - self.last_end_at > seconds
