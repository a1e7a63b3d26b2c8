"""Parses where a node's metrics are served: `actor_rollout_ref.rollout.custom.metrics`. Pure.

A mapping of `host` (default: loopback) and `port` (default: a free one).
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Mapping
from typing import Any

LOOPBACK = "127.0.0.1"
HIGHEST_PORT = 65535
KEYS = ("host", "port")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricsEndpoint:
    """The address to listen on; `port` 0: any free one. `field`: the path of the setting, for errors."""

    host: str
    port: int
    field: str

    def problem(self, error: OSError) -> str:
        """What is wrong with the setting, from the `error` of listening there."""
        if error.errno == errno.EADDRINUSE:
            return (
                f"{self.field}.port: {self.port} is in use on {self.host}; use another port, "
                "or remove the field to use any free one"
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{self.field}.port: {self.port} is not permitted ({error.strerror}); use 1024 or more"
        return f"{self.field}.host: cannot listen on {self.host} ({error.strerror})"


def metrics_endpoint(custom: Mapping[str, Any], *, node_address: str) -> MetricsEndpoint:
    """The endpoint in `rollout.custom`. The host `node` stands for `node_address`.

    Raises `ValueError` that names the field.
    """
    # Only `taper run` names a run. Its users know this setting as a field of the job.
    field = "spec.rollout.metrics" if custom.get("run") else "actor_rollout_ref.rollout.custom.metrics"
    metrics = custom.get("metrics")
    if metrics is None:
        metrics = {}
    if not isinstance(metrics, Mapping):
        raise ValueError(f"{field}: {metrics!r} is not a mapping; use one with {' and '.join(KEYS)}")
    unknown = sorted(str(name) for name in metrics if name not in KEYS)
    if unknown:
        raise ValueError(f"{field}.{unknown[0]}: unknown setting; use one of {', '.join(KEYS)}")
    host, port = metrics.get("host"), metrics.get("port")
    if host is not None and not (isinstance(host, str) and host):
        raise ValueError(f"{field}.host: {host!r} is not an address; use {LOOPBACK}, node or 0.0.0.0")
    if port is not None and (type(port) is not int or not 0 <= port <= HIGHEST_PORT):
        raise ValueError(f"{field}.port: {port!r} is not a port; use 1024 to {HIGHEST_PORT}, or 0 for any")
    return MetricsEndpoint(
        host=node_address if host == "node" else host or LOOPBACK, port=port or 0, field=field
    )
