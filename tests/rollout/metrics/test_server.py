"""The endpoint, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from taper_rollout.metrics.collector import RolloutMetrics
from taper_rollout.metrics.server import MetricsServer

from ..report.stage_builder import make_stage

# Another address of this machine, which a server on loopback alone must not answer at.
OTHER_ADDRESS = "127.0.0.2"


@contextlib.asynccontextmanager
async def serving(metrics: RolloutMetrics, host: str | None = None) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(metrics.exposition)
    await (server.start() if host is None else server.start(host))
    try:
        yield server
    finally:
        await server.close()


async def get(host: str, port: int, path: str = "/metrics", accept: str = "") -> tuple[int, str, str]:
    """Status, content type and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}{path}", headers={"Accept": accept}) as answer,
    ):
        return answer.status, answer.headers["Content-Type"], await answer.text()


def test_it_serves_the_newest_values() -> None:
    async def ask() -> None:
        metrics = RolloutMetrics()
        async with serving(metrics) as server:
            assert server.address[0] == "127.0.0.1"
            metrics.record(make_stage(replica=0))
            metrics.record(make_stage(replica=1))
            status, content_type, text = await get(*server.address)
        assert status == 200
        assert content_type.startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert {sample.labels["replica"] for sample in families["taper_switches"].samples} == {"0", "1"}

    asyncio.run(ask())


def test_it_listens_on_loopback_only_by_default() -> None:
    async def ask() -> None:
        metrics = RolloutMetrics()
        async with serving(metrics) as server:
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(OTHER_ADDRESS, server.address[1])
        async with serving(metrics, "0.0.0.0") as server:
            assert (await get(OTHER_ADDRESS, server.address[1]))[0] == 200

    asyncio.run(ask())


def test_it_serves_metrics_and_nothing_else() -> None:
    async def ask() -> None:
        async with serving(RolloutMetrics()) as server:
            assert (await get(*server.address, path="/"))[0] == 404
            accept = "application/openmetrics-text; version=1.0.0"
            status, content_type, text = await get(*server.address, accept=accept)
        assert (status, text[-6:]) == (200, "# EOF\n")
        assert content_type.startswith("application/openmetrics-text")

    asyncio.run(ask())


def test_a_taken_port_is_an_error_and_a_closed_one_is_free() -> None:
    async def ask() -> None:
        metrics = RolloutMetrics()
        async with serving(metrics) as server:
            port = server.address[1]
            second = MetricsServer(metrics.exposition)
            with pytest.raises(OSError, match="address already in use"):
                await second.start(port=port)
            await second.close()
        await second.start(port=port)
        assert second.address == ("127.0.0.1", port)
        await second.close()
        await second.close()

    asyncio.run(ask())
