"""Who may report: asked of the API server, and seldom."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from taper_operator.manifests.names import JobIdentity
from taper_operator.reports.refusal import Refused
from taper_operator.reports.tokens import ReportTokens

from ..clock import Clock
from .token_reviews import MadeToken, TokenApiServer

IDENTITY = JobIdentity(name="full", namespace="team", uid="uid-1")
GOOD = "good-token"
USER = {"username": "system:serviceaccount:team:taper-full"}
AUDIENCE = "taper.dev/rlhfjobs/uid-1/attempts/2"


class Setup:
    def __init__(self) -> None:
        self.clock = Clock()
        self.fake = TokenApiServer()
        self.fake.give(GOOD, IDENTITY, 2)
        self.tokens = ReportTokens(self.fake.api_server(self.clock), clock=self.clock)

    def result(self, token: str = GOOD, identity: JobIdentity = IDENTITY, attempt: int = 2) -> str:
        try:
            self.tokens.check(token, identity, attempt)
        except Refused as refused:
            return refused.reason
        return ""

    @property
    def num_reviews(self) -> int:
        return len(self.fake.verbs("tokenreviews"))


def test_the_token_of_the_attempt_is_good_and_asked_about_once_a_minute() -> None:
    setup = Setup()
    assert [setup.result() for _ in range(3)] == ["", "", ""]
    assert setup.num_reviews == 1
    setup.clock.now += 61
    assert setup.result() == ""
    assert setup.num_reviews == 2


def test_an_expired_token_is_trusted_for_at_most_a_minute() -> None:
    setup = Setup()
    assert setup.result() == ""
    setup.fake.tokens.clear()
    setup.clock.now += 61
    assert setup.result() == "unauthenticated"


@pytest.mark.parametrize(
    "asked",
    [
        {"attempt": 1},
        {"attempt": 3},
        {"identity": replace(IDENTITY, uid="uid-2")},
        {"identity": replace(IDENTITY, name="other")},
        {"identity": replace(IDENTITY, namespace="other")},
        {"token": "guessed"},
        {"token": ""},
        {"token": "a b"},
        {"token": "a\r\nX: y"},
        {"token": "t" * 8193},
    ],
)
def test_any_other_token_is_refused(asked: dict[str, Any]) -> None:
    assert Setup().result(**asked) == "unauthenticated"


def test_a_token_for_the_api_server_itself_is_not() -> None:
    setup = Setup()
    setup.fake.tokens["api"] = MadeToken(account=("team", "taper-full"), audiences=("https://kubernetes",))
    assert setup.result(token="api") == "unauthenticated"


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"authenticated": True, "user": USER},
        {"authenticated": True, "user": USER, "audiences": []},
        {"authenticated": True, "user": USER, "audiences": ["taper.dev/rlhfjobs/uid-1/attempts/1"]},
        {"authenticated": True, "audiences": [AUDIENCE]},
        {"authenticated": "true", "user": USER, "audiences": [AUDIENCE]},
    ],
)
def test_a_review_without_audiences_or_account_authenticates_nobody(
    status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup()
    monkeypatch.setattr(setup.tokens._api_server, "create", lambda *_, **__: {"status": status})
    assert setup.result() == "unauthenticated"


def test_without_an_api_server_reports_are_refused_and_no_token_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup()

    def fail(method: str, path: str) -> None:
        raise OSError(f"no route for {GOOD}")

    setup.fake.fault = fail
    with caplog.at_level(logging.DEBUG):
        assert setup.result() == "unavailable"
    assert "Unreachable" in caplog.text
    assert GOOD not in caplog.text


def test_guessed_tokens_cause_a_bounded_number_of_reviews() -> None:
    setup = Setup()
    results = [setup.result(token=f"guess-{number}") for number in range(500)]
    assert results.count("busy") == 400
    assert setup.num_reviews == 100
    setup.clock.now += 1
    assert [setup.result(token=f"more-{number}") for number in range(60)].count("unauthenticated") == 50
