"""A small HTTP server for `GET /health` and `GET /state` of a replica.

`/state` has the state of the switch protocol as it is at that moment, of the replica and of each
rank, and the transitions of the last switch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from taper_rollout.metrics.server import GetServer


class StatusServer(GetServer):
    """`describe` gives the state as a JSON-ready dictionary with at least `healthy`."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        super().__init__({"/health": self._health, "/state": self._state})
        self._describe = describe

    async def _health(self, _: web.Request) -> web.Response:
        state = self._describe()
        return web.json_response({"healthy": state["healthy"]}, status=200 if state["healthy"] else 503)

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(self._describe())
