"""Where metrics are served, from VeRL's settings or a job's, and which values are refused."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from taper_rollout.verl.custom_block import CustomBlock
from taper_rollout.verl.metrics.endpoint import MetricsEndpoint, metrics_endpoint

VERL, JOB = "actor_rollout_ref.rollout.custom.metrics", "spec.rollout.metrics"


def endpoint_of(metrics: dict[str, Any] | None, run: str | None = None) -> MetricsEndpoint:
    sizes = {"footprint": 1, "samplesPerPrompt": 1, "responseTokens": 1}
    block = CustomBlock.model_validate(sizes | {"metrics": metrics, "run": run})
    return metrics_endpoint(block, node_address="10.1.2.3")


@pytest.mark.parametrize(
    ("metrics", "host", "port"),
    [
        (None, "127.0.0.1", 0),
        ({"port": 9400}, "127.0.0.1", 9400),
        ({"host": "node"}, "10.1.2.3", 0),
        ({"host": "0.0.0.0"}, "0.0.0.0", 0),
    ],
    ids=str,
)
def test_metrics_are_on_loopback_by_default(metrics: dict[str, Any] | None, host: str, port: int) -> None:
    endpoint = endpoint_of(metrics)
    assert (endpoint.host, endpoint.port) == (host, port)


def test_the_field_is_the_jobs_in_a_run_and_verls_otherwise() -> None:
    assert endpoint_of(None, run="taper_run_1").field == JOB
    assert endpoint_of(None).field == VERL


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
