"""What is written of a snapshot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.status.job_report import JobReport
from taper_api.status.progress import ReplicaLayout, SwitchTotals, TrainingFigures
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.reports.status import ReportNumber, report_fields, seconds_since_written, written_number

from ..job_objects import NOW

COUNTS = st.integers(0, 2**53 - 1)
SECONDS = st.none() | st.floats(0, 1e9)
SNAPSHOTS = st.builds(
    JobReport,
    attempt=st.integers(1, 9999),
    sequence=st.integers(1, 2**53 - 1),
    is_last=st.booleans(),
    remaining_seconds=st.none() | st.floats(0, 10 * 365 * 86_400),
    training=st.builds(
        TrainingFigures,
        step=COUNTS,
        steps=COUNTS,
        seconds_per_step=SECONDS,
        first_step=st.none() | COUNTS,
        last_checkpoint_step=st.none() | COUNTS,
        reward=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    rollout=st.builds(
        SwitchTotals,
        layouts=st.lists(
            st.builds(ReplicaLayout, layout=st.text("(0,1)", max_size=64), replicas=COUNTS), max_size=16
        ).map(tuple),
        switches=COUNTS,
        aborted_switches=COUNTS,
        pause_p50_seconds=SECONDS,
        pause_p99_seconds=SECONDS,
        saved_gpu_seconds=st.none() | st.floats(-1e9, 1e9),
        regret=st.none() | st.floats(-1, 1e9),
    ),
)


@given(SNAPSHOTS)
def test_every_written_status_is_valid(snapshot: JobReport) -> None:
    status = report_fields(snapshot, NOW, NOW + timedelta(seconds=3))
    read = RLHFJobStatus.model_validate(status, by_alias=True, by_name=False)
    assert read.progress is not None
    assert read.rollout is not None
    assert (
        read.progress.model_dump(exclude={"attempt", "sequence", "time", "eta"})
        == snapshot.training.model_dump()
    )
    assert read.rollout.switches == snapshot.rollout.switches
    assert written_number({"status": status}) == ReportNumber(
        attempt=snapshot.attempt, sequence=snapshot.sequence
    )
    assert seconds_since_written({"status": status}, NOW + timedelta(seconds=10)) == 7
    assert (read.progress.eta is None) == (snapshot.remaining_seconds is None)


def test_the_eta_counts_from_the_time_of_receipt() -> None:
    snapshot = JobReport(
        attempt=1, sequence=1, remaining_seconds=60.0, training=TrainingFigures(step=1, steps=2)
    )
    assert (
        report_fields(snapshot, NOW, NOW + timedelta(seconds=9))["progress"]["eta"] == "2026-11-21T12:01:00Z"
    )


@pytest.mark.parametrize(
    "progress", [None, {}, [], {"attempt": "x", "sequence": -1, "time": 3}, {"time": "never"}]
)
def test_a_malformed_status_reads_as_empty(progress: Any) -> None:
    resource = {"status": {"progress": progress}}
    assert written_number(resource) == ReportNumber()
    assert seconds_since_written(resource, NOW) is None


def test_a_time_in_the_future_is_ignored() -> None:
    resource = {"status": {"progress": {"time": "2026-11-21T13:00:00Z"}}}
    assert seconds_since_written(resource, NOW) is None


def test_the_later_attempt_is_newer_whatever_its_sequence() -> None:
    assert ReportNumber(attempt=2, sequence=1) > ReportNumber(attempt=1, sequence=99)
