"""Events as the API server takes them, each once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taper_operator.kube.event import Transition, make_event, record_event
from taper_operator.kube.resource import EVENTS, KubeObject

from ..fake_api_server import JOBS, FakeApiServer, make_object

AT = datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))


def event_of(job: KubeObject, **changes: Any) -> KubeObject:
    fields: dict[str, Any] = {
        "kind": "Warning",
        "reason": "AttemptFailed",
        "action": "StartAttempt",
        "note": "attempt 1 failed",
        "occasion": "1",
    }
    at, instance = changes.pop("at", AT), changes.pop("instance", "taper-operator-0_abc")
    return make_event(job, Transition(**fields | changes), instance=instance, at=at)


def job_in(fake: FakeApiServer, name: str = "a") -> KubeObject:
    return fake.put(JOBS, make_object(JOBS, name))


def test_an_event_has_the_required_fields() -> None:
    job = job_in(FakeApiServer(JOBS))
    event = event_of(job)
    assert event["eventTime"] == "2026-11-21T11:00:00.000005Z"
    assert event["metadata"]["namespace"] == "team"
    assert event["regarding"] == {
        "apiVersion": "taper.dev/v1alpha1",
        "kind": "RLHFJob",
        "namespace": "team",
        "name": "a",
        "uid": job["metadata"]["uid"],
    }
    for field in ("type", "reason", "action", "note", "reportingController", "reportingInstance"):
        assert event[field]


def test_a_repeated_event_is_recorded_once() -> None:
    fake = FakeApiServer(JOBS)
    job = job_in(fake)
    server = fake.api_server()
    for second, occasion in enumerate(("1", "1", "2")):
        record_event(server, event_of(job, occasion=occasion, at=AT + timedelta(seconds=second)))
    assert len(fake.all(EVENTS)) == 2


def test_an_event_that_cannot_be_written_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeApiServer(JOBS)
    job = job_in(fake)
    record_event(fake.api_server(write_seconds_left=lambda: 0.0), event_of(job))
    assert fake.all(EVENTS) == {}
    assert "AttemptFailed" in caplog.text


@pytest.mark.parametrize("note", ["ä" * 600, "x" * 1_025, "x" * 1_024])
def test_a_note_is_cut_to_the_bytes_that_are_allowed(note: str) -> None:
    event = event_of(job_in(FakeApiServer(JOBS)), note=note, instance="i" * 300)
    assert 1_000 < len(event["note"].encode()) <= 1_024
    assert len(event["reportingInstance"]) == 128


def test_a_long_name_leaves_room() -> None:
    event = event_of(job_in(FakeApiServer(JOBS), "n" * 253))
    assert len(event["metadata"]["name"]) == 253


def test_times_are_in_utc() -> None:
    event = event_of(job_in(FakeApiServer(JOBS)), at=datetime(2026, 1, 1, tzinfo=UTC))
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
