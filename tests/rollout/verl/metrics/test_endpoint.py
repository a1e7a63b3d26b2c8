"""Where metrics are served, from VeRL's settings or a job's, and which values are refused."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from taper_rollout.verl.metrics.endpoint import MetricsEndpoint, metrics_endpoint

VERL, JOB = "actor_rollout_ref.rollout.custom.metrics", "spec.rollout.metrics"


def endpoint_of(metrics: Any, run: str | None = None) -> MetricsEndpoint:
    return metrics_endpoint({"metrics": metrics, "run": run}, node_address="10.1.2.3")


@pytest.mark.parametrize(
    ("metrics", "host", "port"),
    [
        (None, "127.0.0.1", 0),
        ({}, "127.0.0.1", 0),
        ({"host": None, "port": None}, "127.0.0.1", 0),
        ({"port": 9400}, "127.0.0.1", 9400),
        ({"host": "node"}, "10.1.2.3", 0),
        ({"host": "0.0.0.0", "port": 0}, "0.0.0.0", 0),
    ],
    ids=str,
)
def test_metrics_are_on_loopback_by_default(metrics: Any, host: str, port: int) -> None:
    endpoint = endpoint_of(metrics)
    assert (endpoint.host, endpoint.port) == (host, port)


def test_all_settings_are_optional() -> None:
    assert metrics_endpoint({}, node_address="10.1.2.3").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (9400, ": 9400 is not a mapping; use one with host and port"),
        ({"prt": 9400}, r"\.prt: unknown setting; use one of host, port"),
        ({"host": 5}, r"\.host: 5 is not an address; use 127"),
        ({"host": ""}, r"\.host: '' is not an address"),
        ({"port": "9400"}, r"\.port: '9400' is not a port; use 1024 to 65535, or 0 for any"),
        ({"port": True}, r"\.port: True is not a port"),
        ({"port": 65536}, r"\.port: 65536 is not a port"),
        ({"port": -1}, r"\.port: -1 is not a port"),
    ],
    ids=str,
)
def test_bad_settings_are_named(metrics: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{VERL}{message}"):
        endpoint_of(metrics)
    with pytest.raises(ValueError, match=f"^{JOB}{message}"):
        endpoint_of(metrics, run="taper_run_1")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EADDRINUSE, ".port: 9400 is in use on 127.0.0.1; use another port"),
        (errno.EACCES, ".port: 9400 is not permitted (Permission denied); use 1024 or more"),
        (errno.EADDRNOTAVAIL, ".host: cannot listen on 127.0.0.1 (Cannot assign requested"),
    ],
)
def test_an_address_that_cannot_be_used_names_the_field(code: int, message: str) -> None:
    problem = endpoint_of({"port": 9400}, run="taper_run_1").problem(OSError(code, os.strerror(code)))
    assert problem.startswith(f"{JOB}{message}")
