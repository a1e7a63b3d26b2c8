"""The requests that a replica serves: how many, since when, and whether new ones may begin."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator


class ServedRequests:
    """`last_arrival_at` and `last_end_at` are seconds of `time.monotonic`. For one asyncio loop.

    New requests wait until the replica is `awake` and does not hold them back; while it rejects them the
    coordinator answers without serving.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last_arrival_at = self.last_end_at = 0.0
        self.is_rejecting = False
        self.awake, self._open = asyncio.Event(), asyncio.Event()
        self.awake.set()
        self._open.set()

    async def admission(self) -> None:
        """Wait until a new request may begin."""
        await self._open.wait()
        await self.awake.wait()

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

    def idle_for(self, seconds: float) -> bool:
        """Whether the last request ended so long ago."""
        return not self.count and time.monotonic() - self.last_end_at > seconds
