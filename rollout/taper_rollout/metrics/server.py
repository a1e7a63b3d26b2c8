"""A small HTTP server: the one that answers `GET /metrics`, and the base of a replica's status server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

LOOPBACK = "127.0.0.1"

Handler = Callable[[web.Request], Awaitable[web.Response]]


class GetServer:
    """Answers `GET` of the paths that it has handlers for. Listens on loopback by default."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] = ("", 0)

    async def start(self, host: str = LOOPBACK, port: int = 0) -> None:
        """Listen. `port` 0: any free one. Raises OSError if it cannot listen; `close` is needed even then."""
        app = web.Application()
        for path, handler in self._handlers.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.address = (host, int(self._runner.addresses[0][1]))

    async def close(self) -> None:
        """Stop listening. May be called at any time and repeatedly."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


class MetricsServer(GetServer):
    """`exposition` returns content and content type for an `Accept` header (`RolloutMetrics.exposition`)."""

    def __init__(self, exposition: Callable[[str], tuple[bytes, str]]) -> None:
        super().__init__({"/metrics": self._metrics})
        self._exposition = exposition

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
