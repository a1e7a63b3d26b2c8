"""Timestamps in Kubernetes' format: RFC 3339, whole seconds, UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """The text of a moment."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_between(earlier: str, later: datetime) -> float:
    """Seconds from a timestamp to a moment; 0 where the timestamp is later, as clocks may disagree."""
    return max(0.0, (later - datetime.fromisoformat(earlier)).total_seconds())


def seconds_until(moment: str, now: datetime) -> float:
    """Seconds from now to a timestamp; 0 if it has passed."""
    return max(0.0, (datetime.fromisoformat(moment) - now).total_seconds())
