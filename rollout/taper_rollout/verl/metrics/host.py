"""The Ray actor that serves the metrics of a node: one endpoint for all of its replicas.

Replicas and trainer post their events to it and never wait for it: if it is slow or gone, metrics are
lost and nothing else. Ray delivers an actor's posts in order, except large ones (the record of a long
stage): events posted within the same milliseconds may overtake them, and a gauge is then wrong until the
next progress event.

`RolloutMetrics` needs a process without an engine, which this actor has.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taper_rollout.events import Event, MetricsServed
from taper_rollout.metrics.definitions import COUNTED_EVENTS
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint
from taper_rollout.verl.replica_name import metrics_name

START_SECONDS = 120.0
MAX_ATTEMPTS, RETRY_SECONDS = 5, 0.2
# Pending posts for a host that hangs. Further posts are dropped, or they would fill the replica's memory.
MAX_PENDING_POSTS = 1_000
EVERYWHERE = frozenset({"0.0.0.0", "::"})

_logger = logging.getLogger(__name__)


class MetricsHost:
    """Holds a node's metrics and answers `GET /metrics`. `run`: name of the run's reporter, or None."""

    def __init__(self, run: str | None) -> None:
        # Imported here, because replicas import this class, and their engine changes `prometheus_client`.
        from taper_rollout.metrics.collector import RolloutMetrics
        from taper_rollout.metrics.server import MetricsServer

        self._metrics = RolloutMetrics()
        self._server = MetricsServer(self._metrics.exposition)
        self._reporter = ray.get_actor(run) if run is not None else None
        self._starting = asyncio.Lock()

    async def start(self, endpoint: MetricsEndpoint) -> tuple[str, int]:
        """Listen, and report the address to the run. Only the first call on a node has an effect.

        Raises `ValueError` that names the field if it cannot listen.
        """
        async with self._starting:
            if not self._server.address[1]:
                try:
                    await self._server.start(endpoint.host, endpoint.port)
                except OSError as error:
                    await self._server.close()
                    raise ValueError(endpoint.problem(error)) from None
                self._report_address(*self._server.address)
        return self._server.address

    def _report_address(self, host: str, port: int) -> None:
        address = ray.util.get_node_ip_address()
        reached = address if host in EVERYWHERE else host
        url = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/metrics"
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        if self._reporter is None:
            sys.stdout.write(f"metrics: {url}\n")  # shown by Ray, like VeRL's own lines
            return
        # With several nodes, a loopback address alone would be ambiguous.
        node = address if num_nodes > 1 else None
        self._reporter.post.remote(MetricsServed(url=url, node=node))

    async def post(self, event: Event) -> None:
        """Count an event. Logs errors instead of raising, as the caller does not wait."""
        try:
            self._metrics.record(event)
        except Exception:
            _logger.exception("an event of kind %s was not counted", type(event).__name__)

    async def close(self) -> None:
        await self._server.close()


async def serve_metrics(endpoint: MetricsEndpoint, *, run: str | None, node: str) -> Any:
    """Get or start the host on the node with the Ray id `node`. Returns its handle once it listens.

    It lives as long as its handles. Raises `ValueError` that names the field if it cannot listen, and
    `TimeoutError` after `START_SECONDS`.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        host = _host(run, node)
        try:
            await asyncio.wait_for(host.start.remote(endpoint), START_SECONDS)
        except TimeoutError:
            raise TimeoutError(
                f"{endpoint.field}: the endpoint on node {node} did not start within {START_SECONDS:g} s"
            ) from None
        except ray.exceptions.ActorDiedError:
            # Another replica started this host, which could not listen, and dropped its last handle.
            if attempt == MAX_ATTEMPTS:
                raise
            await asyncio.sleep(RETRY_SECONDS)
        else:
            break
    return host


def _host(run: str | None, node: str) -> Any:
    return (
        ray.remote(MetricsHost)
        .options(
            name=metrics_name(run, node),
            get_if_exists=True,
            num_cpus=0,
            max_pending_calls=MAX_PENDING_POSTS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        )
        .remote(run)
    )


def post_to(host: Any, event: Event) -> Any:
    """Post an event to a host. Returns the pending result, or None if nothing was sent. Never raises."""
    if not isinstance(event, COUNTED_EVENTS):
        return None
    try:
        return host.post.remote(event)
    except Exception as error:
        _logger.warning("cannot reach a metrics host: %s", error)
        return None


def post_to_all(run: str, event: Event) -> None:
    """Post an event to the run's hosts on all nodes. Never raises."""
    prefix = metrics_name(run, "")
    try:
        hosts = [ray.get_actor(name) for name in ray.util.list_named_actors() if name.startswith(prefix)]
    except Exception as error:
        _logger.warning("cannot find the metrics hosts: %s", error)
        return
    for host in hosts:
        post_to(host, event)
