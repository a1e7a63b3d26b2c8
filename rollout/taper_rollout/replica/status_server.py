"""A small HTTP server for `GET /health` and `GET /state` of a replica.

`/state` has the state of the switch protocol as it is at that moment, of the replica and of each
rank, and the transitions of the last switch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web


class StatusServer:
    """`describe` gives the state as a JSON-ready dictionary with at least `healthy`."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] = ("", 0)

    async def start(self, host: str, port: int) -> None:
        """Listen. `port` 0 takes a free one. Raises OSError where the port is taken."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/state", self._state)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0]
        self.address = (host, int(bound[1]))

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _: web.Request) -> web.Response:
        state = self._describe()
        return web.json_response({"healthy": state["healthy"]}, status=200 if state["healthy"] else 503)

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(self._describe())
