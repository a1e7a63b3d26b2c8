"""Where a node's metrics are served: `actor_rollout_ref.rollout.custom.metrics`. Pure.

Without them it is loopback, and a free port.
"""

from __future__ import annotations

import dataclasses
import errno

from taper_rollout.verl.custom_block import CUSTOM, CustomBlock


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricsEndpoint:
    """Address to listen at; `port` 0 is a free one. `field` is the setting's path, as its author wrote it."""

    host: str
    port: int
    field: str

    def refusal(self, error: OSError) -> str:
        """What is wrong with the setting when `error` came of listening there."""
        if error.errno == errno.EADDRINUSE:
            problem = f"is taken on {self.host}; name another one, or leave it out for one that is free"
            return f"{self.field}.port: {self.port} {problem}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{self.field}.port: {self.port} may not be used ({error.strerror}); use 1024 or more"
        return f"{self.field}.host: nobody can listen on {self.host} there ({error.strerror})"


def metrics_endpoint(block: CustomBlock, *, node_address: str) -> MetricsEndpoint:
    """The endpoint of a run's `metrics`; the host `node` stands for `node_address`."""
    # A job's field is this setting by another name: `taper run` alone names a run.
    field = "spec.rollout.metrics" if block.run else f"{CUSTOM}.metrics"
    host = node_address if block.metrics.host == "node" else block.metrics.host
    return MetricsEndpoint(host=host, port=block.metrics.port or 0, field=field)
