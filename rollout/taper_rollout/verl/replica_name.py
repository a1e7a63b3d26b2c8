"""The Ray names by which a run's actors find each other."""

from __future__ import annotations

PREFIX = "taper_replica_"
METRICS_PREFIX = "taper_metrics_"


def replica_name(rank: int, suffix: str = "") -> str:
    """The server actor of replica `rank`; `suffix` sets several rollouts of one job apart."""
    return f"{PREFIX}{rank}{suffix}"


def metrics_name(run: str | None, node: str) -> str:
    """The metrics host of a run on the node with this Ray id; VeRL's own command has no run's name."""
    return f"{METRICS_PREFIX}{run or 'verl'}_{node}"
