"""Parses where a node's metrics are served: `actor_rollout_ref.rollout.custom.metrics`. Pure.

The default is loopback and a free port.
"""

from __future__ import annotations

import dataclasses
import errno

from taper_rollout.verl.custom_block import CUSTOM, CustomBlock


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


def metrics_endpoint(block: CustomBlock, *, node_address: str) -> MetricsEndpoint:
    """The endpoint of a run's `metrics`. The host `node` stands for `node_address`."""
    # Only `taper run` names a run. Its users know this setting as a field of the job.
    field = "spec.rollout.metrics" if block.run else f"{CUSTOM}.metrics"
    host = node_address if block.metrics.host == "node" else block.metrics.host
    return MetricsEndpoint(host=host, port=block.metrics.port or 0, field=field)
