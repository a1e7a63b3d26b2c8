"""What is written of a snapshot: `progress` and `rollout` of a job's status.

Of all snapshots of a job the one of the latest attempt, and of its highest number, is the newest. What
the status says already is the measure, so that replicas of the operator that hear different ones agree.

Invariants (asserted by `tests/operator/reports/test_status.py`):
- what is written is a valid status, for every snapshot;
- it is the newer of any two that is written, in whatever order they are heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from taper_api.status.job_report import JobReport
from taper_api.status.progress import Progress, RolloutFigures
from taper_operator.kube.json_field import count_at, text_at
from taper_operator.kube.resource import KubeObject
from taper_operator.kube.timestamp import timestamp


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ReportNumber:
    """Which of two snapshots is the newer."""

    attempt: int = 0
    sequence: int = 0


def number_of(snapshot: JobReport) -> ReportNumber:
    """The number of a snapshot that was posted."""
    return ReportNumber(attempt=snapshot.attempt, sequence=snapshot.sequence)


def written_number(resource: KubeObject) -> ReportNumber:
    """The snapshot that a job's status is of."""
    progress = ("status", "progress")
    return ReportNumber(
        attempt=count_at(resource, *progress, "attempt"), sequence=count_at(resource, *progress, "sequence")
    )


def seconds_since_written(resource: KubeObject, now: datetime) -> float | None:
    """How old what the status says is; None where that is unreadable or of the future."""
    try:
        written = datetime.fromisoformat(text_at(resource, "status", "progress", "time"))
        seconds = (now - written).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds >= 0 else None


def current_attempt(resource: KubeObject) -> int:
    """Number of the job's newest attempt."""
    return count_at(resource, "status", "attempt")


def report_fields(snapshot: JobReport, heard: datetime, now: datetime) -> dict[str, Any]:
    """`progress` and `rollout` of the status. heard, now: when it was heard, and when it is written"""
    identity: dict[str, Any] = {
        "attempt": snapshot.attempt,
        "sequence": snapshot.sequence,
        "time": timestamp(now),
    }
    eta = None
    if snapshot.remaining_seconds is not None:
        eta = timestamp(heard + timedelta(seconds=snapshot.remaining_seconds))
    progress = Progress.model_validate(identity | snapshot.training.model_dump() | {"eta": eta})
    rollout = RolloutFigures.model_validate(identity | snapshot.rollout.model_dump())
    return {
        name: part.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, part in (("progress", progress), ("rollout", rollout))
    }
