"""The Ray actor that serves the metrics of a node: one endpoint, however many replicas the node holds.

Replicas and trainer post their events to it and never wait for it: a host that is slow, dead or
gone costs figures and nothing else. Ray runs an actor's posts in the order in which they were
sent, but for one that is large (a long stage's record): what is told within the same
milliseconds may overtake it, and a gauge is then wrong until the next glance.

`RolloutMetrics` wants a process without an engine, and this one has none.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taper_rollout.metrics.definitions import COUNTED_EVENTS
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint
from taper_rollout.verl.replica_name import metrics_name

START_SECONDS = 120.0
MAX_ATTEMPTS, RETRY_SECONDS = 5, 0.2
# Posts that may wait for a host that hangs; more of them would fill the replica's memory, and are dropped.
MAX_PENDING_POSTS = 1_000
EVERYWHERE = frozenset({"0.0.0.0", "::"})

_logger = logging.getLogger(__name__)


class MetricsHost:
    """Holds a node's figures and answers `GET /metrics`. `run` names the run's reporter, None without one."""

    def __init__(self, run: str | None) -> None:
        # Imported here: replicas know this class too, and their engine decides how figures are kept.
        from taper_rollout.metrics.collector import RolloutMetrics
        from taper_rollout.metrics.server import MetricsServer

        self._metrics = RolloutMetrics()
        self._server = MetricsServer(self._metrics.exposition)
        self._reporter = ray.get_actor(run) if run is not None else None
        self._starting = asyncio.Lock()

    async def start(self, endpoint: MetricsEndpoint) -> tuple[str, int]:
        """Listen, and tell the run where. Replicas of a node all call it; the first call counts.

        Raises `ValueError` naming the field where nobody can listen there.
        """
        async with self._starting:
            if not self._server.address[1]:
                try:
                    await self._server.start(endpoint.host, endpoint.port)
                except OSError as error:
                    await self._server.close()
                    raise ValueError(endpoint.refusal(error)) from None
                self._tell(*self._server.address)
        return self._server.address

    def _tell(self, host: str, port: int) -> None:
        address = ray.util.get_node_ip_address()
        reached = address if host in EVERYWHERE else host
        url = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/metrics"
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        if self._reporter is None:
            sys.stdout.write(f"metrics: {url}\n")  # which Ray shows, as VeRL's own lines
            return
        node = address if num_nodes > 1 else None  # a loopback address says nothing where there are several
        self._reporter.post.remote({"kind": "MetricsServed", "url": url, "node": node})

    async def post(self, event: dict[str, Any]) -> None:
        """Write down an event in JSON form. One that cannot be understood is logged: nobody waits for it."""
        try:
            self._metrics.record(event)
        except Exception:
            _logger.exception("an event was not counted: %s", event.get("kind"))

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()


async def serve_metrics(endpoint: MetricsEndpoint, *, run: str | None, node: str) -> Any:
    """The handle of the host on the node with the Ray id `node`, once it listens; made if there is none.

    It lives as long as handles of it do. Raises `ValueError` naming the field where it cannot
    listen, and `TimeoutError` after `START_SECONDS`.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        host = _host(run, node)
        try:
            await asyncio.wait_for(host.start.remote(endpoint), START_SECONDS)
        except TimeoutError:
            raise TimeoutError(
                f"{endpoint.field}: not served within {START_SECONDS:g} s on node {node}"
            ) from None
        except ray.exceptions.ActorDiedError:
            # Another replica had made that one and, as it could not listen, dropped the last handle of it.
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


def post_to(host: Any, event: dict[str, Any]) -> Any:
    """Send an event to a host; the result to wait for, or None where nothing was sent. Never raises."""
    if event["kind"] not in COUNTED_EVENTS:
        return None
    try:
        return host.post.remote(event)
    except Exception as error:
        _logger.warning("a metrics host cannot be reached: %s", error)
        return None


def post_to_all(run: str, event: dict[str, Any]) -> None:
    """Send an event to the run's hosts on all nodes. Never raises."""
    prefix = metrics_name(run, "")
    try:
        hosts = [ray.get_actor(name) for name in ray.util.list_named_actors() if name.startswith(prefix)]
    except Exception as error:
        _logger.warning("the metrics hosts cannot be found: %s", error)
        return
    for host in hosts:
        post_to(host, event)
