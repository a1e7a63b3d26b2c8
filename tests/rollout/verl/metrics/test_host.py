"""The metrics host of a node, without Ray: what it reports, refuses and survives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from taper_rollout.events import MetricsServed, StageProgress, Step
from taper_rollout.verl import session as session_module
from taper_rollout.verl import trainer_hooks
from taper_rollout.verl.metrics import host as module
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint
from taper_rollout.verl.metrics.host import MetricsHost, post_to, post_to_all
from taper_rollout.verl.replica_name import METRICS_PREFIX, metrics_name, replica_name

NODE_ADDRESS, LOOPBACK = "10.1.2.3", "127.0.0.1"


class Handle:
    """A fake actor handle, which lists what is sent to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[Any] = []
        self.post = SimpleNamespace(remote=self._take)
        self._error = error

    def _take(self, event: Any) -> str:
        if self._error is not None:
            raise self._error
        self.sent.append(event)
        return "sent"


class Cluster:
    """A fake Ray: named actors and nodes."""

    def __init__(self) -> None:
        self.actors: dict[str, Any] = {"run": Handle()}
        self.num_nodes = 1
        self.util = SimpleNamespace(
            list_named_actors=lambda: list(self.actors), get_node_ip_address=lambda: NODE_ADDRESS
        )
        self.exceptions = module.ray.exceptions

    def get_actor(self, name: str) -> Any:
        return self.actors[name]

    def get(self, result: Any, timeout: float) -> Any:
        return result

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}] * self.num_nodes + [{"Alive": False}]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "ray", cluster)
    monkeypatch.setattr(trainer_hooks, "ray", cluster)
    return cluster


def endpoint(host: str = LOOPBACK, port: int = 0) -> MetricsEndpoint:
    return MetricsEndpoint(host=host, port=port, field="spec.rollout.metrics")


def served(scenario: Callable[[MetricsHost], Any], run: str | None = "run") -> None:
    async def whole() -> None:
        host = MetricsHost(run)
        try:
            await asyncio.wait_for(scenario(host), 20)
        finally:
            await host.close()

    asyncio.run(whole())


async def read(address: tuple[str, int]) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address[0]}:{address[1]}/metrics") as answer,
    ):
        return await answer.text()


def test_every_replica_starts_it_and_the_address_is_reported_once(cluster: Cluster) -> None:
    async def scenario(host: MetricsHost) -> None:
        first, second = await asyncio.gather(host.start(endpoint()), host.start(endpoint()))
        assert first == second
        url = f"http://127.0.0.1:{first[1]}/metrics"
        assert cluster.actors["run"].sent == [MetricsServed(url=url, node=None)]
        await host.post(Step(step=3, metrics={}))
        assert "taper_training_step 3.0" in await read(first)

    served(scenario)


def test_a_bad_event_is_logged_and_the_next_one_counts(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    progress: Any = StageProgress(replica=0, step=1, running=None, finished=0, degree=1, num_ranks=2)  # type: ignore[arg-type]

    async def scenario(host: MetricsHost) -> None:
        await host.post(progress)
        await host.post(Step(step=4, metrics={}))
        assert "taper_training_step 4.0" in await read(await host.start(endpoint()))

    served(scenario)
    assert "an event of kind StageProgress was not counted" in caplog.text


def test_an_address_for_all_interfaces_is_reported_as_that_of_the_node(cluster: Cluster) -> None:
    cluster.num_nodes = 2

    async def scenario(host: MetricsHost) -> None:
        _, port = await host.start(endpoint("0.0.0.0"))
        (served,) = cluster.actors["run"].sent
        assert (served.url, served.node) == (f"http://{NODE_ADDRESS}:{port}/metrics", NODE_ADDRESS)

    served(scenario)


def test_without_a_run_the_address_is_printed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(host: MetricsHost) -> None:
        _, port = await host.start(endpoint())
        assert capsys.readouterr().out == f"metrics: http://127.0.0.1:{port}/metrics\n"

    served(scenario, run=None)


def test_a_port_in_use_names_the_field_and_can_be_retried(cluster: Cluster) -> None:
    async def scenario(host: MetricsHost) -> None:
        with socket.socket() as taken:
            taken.bind((LOOPBACK, 0))
            taken.listen()
            port = taken.getsockname()[1]
            for _ in range(2):  # another replica of the node gets the same error
                with pytest.raises(
                    ValueError, match=rf"^spec\.rollout\.metrics\.port: {port} is in use on 127"
                ):
                    await host.start(endpoint(port=port))
        assert cluster.actors["run"].sent == []
        assert await host.start(endpoint(port=port)) == (LOOPBACK, port)

    served(scenario)


def test_a_host_that_accepts_no_posts_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert post_to(Handle(), Step(step=1, metrics={})) == "sent"
    assert post_to(Handle(RuntimeError("too many pending calls")), Step(step=1, metrics={})) is None
    assert "cannot reach a metrics host: too many pending calls" in caplog.text


def test_a_step_reaches_the_run_and_its_hosts_on_all_nodes(cluster: Cluster) -> None:
    hosts = {metrics_name("run", node): Handle() for node in ("a", "b")}
    broken = {metrics_name("run", "c"): Handle(RuntimeError("gone"))}
    others = {metrics_name("runs", "a"): Handle(), replica_name(0): Handle()}
    cluster.actors |= broken | hosts | others
    trainer_hooks.StepReport("run").log({"training/global_step": 2, "name": "x"}, step=2)
    event = Step(step=2, metrics={"training/global_step": 2.0})
    assert cluster.actors["run"].sent == [event]
    assert [host.sent for host in hosts.values()] == [[event], [event]]
    assert [other.sent for other in others.values()] == [[], []]


def test_hosts_that_cannot_be_found_are_only_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def lost() -> list[str]:
        raise RuntimeError("no answer")

    cluster.util.list_named_actors = lost
    post_to_all("run", Step(step=1, metrics={}))
    assert "cannot find the metrics hosts: no answer" in caplog.text


def test_hosts_are_closed_after_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def actor(name: str) -> Any:
        return SimpleNamespace(close=SimpleNamespace(remote=lambda: calls.append(name) or name))

    names = [metrics_name("run", "a"), replica_name(0), "taper_run_1", replica_name(1), f"{METRICS_PREFIX}b"]
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        get_actor=actor,
        wait=lambda closing, **_: calls.append(("waited for", len(closing))),
        util=SimpleNamespace(list_named_actors=lambda: names),
    )
    monkeypatch.setattr(session_module, "ray", ray)
    session_module._close_replicas()
    assert calls == [names[1], names[3], ("waited for", 2), names[0], names[4], ("waited for", 2)]
