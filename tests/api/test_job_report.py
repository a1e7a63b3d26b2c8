"""What an attempt posts about itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.status.job_report import MAX_SNAPSHOT_BYTES, JobReport, report_of

LEAST: dict[str, Any] = {"attempt": 1, "sequence": 1, "training": {"step": 0, "steps": 4}}
FULL: dict[str, Any] = {
    "attempt": 2,
    "sequence": 3,
    "isLast": True,
    "remainingSeconds": 12.5,
    "training": {"step": 1, "steps": 4, "secondsPerStep": 2.5, "lastCheckpointStep": 1, "reward": 0.5},
    "rollout": {
        "layouts": [{"layout": "(0,1)(2)(3)", "replicas": 2}],
        "switches": 3,
        "abortedSwitches": 1,
        "pauseP50Seconds": 0.1,
        "pauseP99Seconds": 0.4,
        "savedGpuSeconds": -2.5,
        "regret": 0.01,
    },
}


def posted(content: Any) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize("content", [LEAST, FULL])
def test_each_posted_report_is_read_back(content: dict[str, Any]) -> None:
    snapshot = report_of(posted(content))
    assert report_of(snapshot.as_json()) == snapshot
    assert content.items() <= json.loads(snapshot.as_json()).items()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"attempt": 0}, "attempt"),
        ({"attempt": 10_000}, "attempt"),
        ({"attempt": "1"}, "attempt"),
        ({"sequence": 0}, "sequence"),
        ({"sequence": 2**53}, "sequence"),
        ({"is_last": True}, "is_last"),
        ({"time": "2026-11-21T12:00:00Z"}, "time"),
        ({"remainingSeconds": -1.0}, "remainingSeconds"),
        ({"remainingSeconds": 1e300}, "remainingSeconds"),
        ({"training": None}, "training"),
        ({"training": {"step": 1}}, "training.steps"),
        ({"rollout": {"layouts": [{"layout": "x" * 65, "replicas": 1}]}}, "rollout.layouts.0.layout"),
        ({"rollout": {"layouts": [{"layout": "x", "replicas": 1}] * 17}}, "rollout.layouts"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{path}: "):
        report_of(posted(LEAST | change))


def test_a_report_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_SNAPSHOT_BYTES}"):
        report_of(posted(LEAST) + b" " * MAX_SNAPSHOT_BYTES)


def test_the_largest_valid_report_is_within_the_limit() -> None:
    layouts = [{"layout": "x" * 64, "replicas": 2**53 - 1}] * 16
    figures = {"layouts": layouts, "switches": 2**53 - 1, "savedGpuSeconds": -1.2345678901234567e300}
    assert len(report_of(posted(FULL | {"rollout": figures})).as_json()) < MAX_SNAPSHOT_BYTES / 4


@given(st.binary() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(posted))
def test_only_value_errors_are_raised(content: bytes) -> None:
    with pytest.raises(ValueError):
        report_of(content)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError):
        report_of(posted(LEAST | {"training": {"step": 1, "steps": 2, "reward": float("nan")}}))


def test_bounds_hold_when_a_report_is_created() -> None:
    with pytest.raises(ValueError):
        JobReport.model_validate(LEAST | {"attempt": 0})
