"""The part of a job's status that a report fills: `progress` and `rollout`.

The newest of a job's reports is the one of the latest attempt with the highest number. Replicas that received
different reports agree by comparing with the one that is already in the status.

Invariants (asserted by `tests/operator/reports/test_status.py`):
- every report gives a valid status;
- of any two reports the newer one ends up in the status, in whatever order they arrive.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from taper_api.status.job_report import JobReport
from taper_api.status.progress import Progress, RolloutFigures
from taper_operator.kube.json_field import count_at, text_at
from taper_operator.kube.resource import KubeObject
from taper_operator.kube.timestamp import timestamp


class ReportNumber(NamedTuple):
    """Orders the reports of a job; the greater one is newer."""

    attempt: int = 0
    sequence: int = 0


def number_of(report: JobReport) -> ReportNumber:
    """The number of a posted report."""
    return ReportNumber(attempt=report.attempt, sequence=report.sequence)


def written_number(resource: KubeObject) -> ReportNumber:
    """The number of the report that is in a job's status."""
    progress = ("status", "progress")
    return ReportNumber(
        attempt=count_at(resource, *progress, "attempt"), sequence=count_at(resource, *progress, "sequence")
    )


def seconds_since_written(resource: KubeObject, now: datetime) -> float | None:
    """The age of the report in the status; None if its time is unreadable or in the future."""
    try:
        written = datetime.fromisoformat(text_at(resource, "status", "progress", "time"))
        seconds = (now - written).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds >= 0 else None


def current_attempt(resource: KubeObject) -> int:
    """Number of the job's newest attempt."""
    return count_at(resource, "status", "attempt")


def report_fields(report: JobReport, received: datetime, now: datetime) -> dict[str, Any]:
    """`progress` and `rollout` of the status. received, now: when it was received, and when it is written"""
    identity: dict[str, Any] = {
        "attempt": report.attempt,
        "sequence": report.sequence,
        "time": timestamp(now),
    }
    eta = None
    if report.remaining_seconds is not None:
        eta = timestamp(received + timedelta(seconds=report.remaining_seconds))
    progress = Progress.model_validate(identity | report.training.model_dump() | {"eta": eta})
    rollout = RolloutFigures.model_validate(identity | report.rollout.model_dump())
    return {
        name: part.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, part in (("progress", progress), ("rollout", rollout))
    }
