"""A metrics host that another replica has just dropped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from taper_rollout.verl.metrics import host as metrics_host
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint

ENDPOINT = MetricsEndpoint(host="127.0.0.1", port=0, field="spec.rollout.metrics")


def hosts(monkeypatch: pytest.MonkeyPatch, num_dead: int) -> list[Any]:
    """The hosts that are found in turn; the first `num_dead` die before they listen."""
    found: list[Any] = []

    def host(run: str | None, node: str) -> Any:
        is_dead = len(found) < num_dead

        async def start(endpoint: MetricsEndpoint) -> tuple[str, int]:
            if is_dead:
                raise ray.exceptions.ActorDiedError
            return endpoint.host, 9400

        found.append(SimpleNamespace(start=SimpleNamespace(remote=start)))
        return found[-1]

    monkeypatch.setattr(metrics_host, "_host", host)
    monkeypatch.setattr(metrics_host, "RETRY_SECONDS", 0.0)
    return found


def test_a_replica_replaces_a_host_that_is_being_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = hosts(monkeypatch, num_dead=2)
    served = asyncio.run(metrics_host.serve_metrics(ENDPOINT, run=None, node="a"))
    assert len(found) == 3
    assert served is found[-1]


def test_hosts_that_all_die_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosts(monkeypatch, num_dead=99)
    with pytest.raises(ray.exceptions.ActorDiedError):
        asyncio.run(metrics_host.serve_metrics(ENDPOINT, run=None, node="a"))
    assert len(found) == metrics_host.MAX_ATTEMPTS
