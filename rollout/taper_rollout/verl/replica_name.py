"""Ray names of a run's actors."""

from __future__ import annotations

PREFIX = "taper_replica_"
METRICS_PREFIX = "taper_metrics_"


def replica_name(rank: int, suffix: str = "") -> str:
    """The server actor of replica `rank`. `suffix` distinguishes several rollouts of one job."""
    return f"{PREFIX}{rank}{suffix}"


def metrics_name(run: str | None, node: str) -> str:
    """The metrics host of a run on the node with this Ray id. With VeRL's own command, `run` is None."""
    return f"{METRICS_PREFIX}{run or 'verl'}_{node}"
