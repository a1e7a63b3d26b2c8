"""The Ray names by which a run's actors find each other."""

from __future__ import annotations

PREFIX = "taper_replica_"


def replica_name(rank: int, suffix: str = "") -> str:
    """The server actor of replica `rank`; `suffix` sets several rollouts of one job apart."""
    return f"{PREFIX}{rank}{suffix}"
