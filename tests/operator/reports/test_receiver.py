"""Which snapshots are taken."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import ObjectKey, own_key
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.report_path import job_of_path, report_path
from taper_operator.reports.receiver import ReportReceiver
from taper_operator.reports.refusal import Refused
from taper_operator.reports.tokens import ReportTokens
from taper_operator.reports.writer import ReceivedReport

from ..clock import Clock
from ..job_objects import NOW, resource
from .token_reviews import TokenApiServer

PATH = report_path("team", "full")
BODY: dict[str, Any] = {"attempt": 2, "sequence": 5, "training": {"step": 1, "steps": 4}}


class Taken:
    """Stands for the writer."""

    def __init__(self) -> None:
        self.reports: list[tuple[ObjectKey, ReceivedReport]] = []
        self.is_newer = True

    def offer(self, key: ObjectKey, report: ReceivedReport) -> bool:
        self.reports.append((key, report))
        return self.is_newer


class Setup:
    def __init__(self) -> None:
        self.clock = Clock()
        self.fake = TokenApiServer(RLHF_JOBS)
        progress = {"attempt": 2, "sequence": 4, "time": "2026-11-21T12:00:00Z"}
        self.job = self.fake.put(RLHF_JOBS, resource() | {"status": {"attempt": 2, "progress": progress}})
        self.fake.put(RLHF_JOBS, resource(name="other") | {"status": {"attempt": 2}})
        self.cache = ObjectCache(keys_of=own_key)
        self.cache.replace(self.fake.all(RLHF_JOBS).values())
        self.fake.give("good", self.identity("full"), 2)
        self.fake.give("old", self.identity("full"), 1)
        self.fake.give("others", self.identity("other"), 2)
        self.taken = Taken()
        self.is_ready = True
        self.receiver = ReportReceiver(
            self.cache,
            ReportTokens(self.fake.api_server(self.clock), clock=self.clock),
            self.taken,  # type: ignore[arg-type]
            is_ready=lambda: self.is_ready,
            clock=self.clock,
            now=lambda: NOW + timedelta(seconds=self.clock.now),
        )

    def identity(self, name: str) -> JobIdentity:
        uid = self.fake.objects[RLHF_JOBS, ObjectKey("team", name)]["metadata"]["uid"]
        return JobIdentity(name=name, namespace="team", uid=uid)

    def post(self, *, path: str = PATH, token: str = "good", **changes: Any) -> str:
        return self.post_raw(path, f"Bearer {token}", json.dumps(BODY | changes).encode())

    def post_raw(self, path: str, authorization: str, body: bytes) -> str:
        try:
            return self.receiver.receive(path, authorization, body)
        except Refused as refused:
            return refused.reason


def test_a_valid_report_is_passed_on_with_its_job() -> None:
    setup = Setup()
    assert setup.post() == "accepted"
    ((key, received),) = setup.taken.reports
    assert key == ("team", "full")
    assert received.uid == setup.job["metadata"]["uid"]
    assert (received.job_report.attempt, received.job_report.sequence) == (2, 5)


@pytest.mark.parametrize(
    ("post", "reason"),
    [
        ({"path": "/v1/namespaces/team/rlhfjobs/full"}, "not_found"),
        ({"path": "/v1/namespaces/Team/rlhfjobs/full/snapshots"}, "not_found"),
        ({"path": PATH + "?a=b"}, "not_found"),
        ({"path": report_path("team", "none")}, "unauthenticated"),
        ({"path": report_path("team", "other")}, "unauthenticated"),
        ({"token": "others"}, "unauthenticated"),
        ({"token": "old"}, "unauthenticated"),
        ({"token": "old", "attempt": 1}, "stale_attempt"),
        ({"token": "wrong"}, "unauthenticated"),
        ({"attempt": 3}, "unauthenticated"),
        ({"sequence": 4}, "stale_sequence"),
        ({"sequence": 0}, "malformed"),
        ({"colour": "red"}, "malformed"),
    ],
)
def test_anything_else_is_refused(post: dict[str, Any], reason: str) -> None:
    setup = Setup()
    assert setup.post(**post) == reason
    assert setup.taken.reports == []


@pytest.mark.parametrize("authorization", ["", "good", "Basic good", "bearer good", "Bearer  good"])
def test_without_a_bearer_token_there_is_no_review(authorization: str) -> None:
    setup = Setup()
    assert setup.post_raw(PATH, authorization, json.dumps(BODY).encode()) == "unauthenticated"
    assert setup.fake.requests == []


def test_an_unknown_job_causes_no_token_review() -> None:
    setup = Setup()
    setup.post(path=report_path("team", "none"))
    assert setup.fake.requests == []


def test_before_the_caches_are_filled_reports_are_deferred() -> None:
    setup = Setup()
    setup.is_ready = False
    assert setup.post() == "not_ready"


def test_a_report_that_the_writer_knows_to_be_old_is_refused() -> None:
    setup = Setup()
    setup.taken.is_newer = False
    assert setup.post() == "stale_sequence"


def test_a_job_that_posts_too_often_is_refused_and_no_other_job() -> None:
    setup = Setup()
    results = [setup.post(sequence=number) for number in range(5, 12)]
    assert results == ["accepted"] * 4 + ["too_often"] * 3
    assert setup.post(path=report_path("team", "other"), token="others") == "accepted"
    setup.clock.now += 5
    assert setup.post(sequence=20) == "accepted"


def test_refused_posts_do_not_use_up_the_jobs_rate() -> None:
    setup = Setup()
    for number in range(20):
        setup.post(token=f"wrong-{number}")
    assert setup.post() == "accepted"


@given(st.text(), st.text(), st.binary())
def test_every_answer_is_a_known_refusal(path: str, authorization: str, body: bytes) -> None:
    setup = Setup()
    assert setup.post_raw(path, authorization, body) != "accepted"
    assert setup.post_raw(PATH, "Bearer good", body) != "accepted"


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True))
def test_a_report_path_names_its_job(name: str) -> None:
    assert job_of_path(report_path("team", name)) == ("team", name)
