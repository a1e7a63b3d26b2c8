"""When a reflector asks again: soon enough, and not too often."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taper_operator.kube.errors import Unreachable

from ..clock import Clock
from ..fake_api_server import JOBS, FakeApiServer, FakeHttpResponse, make_object, status_body
from .reflected_keys import REFUSED, held, make_reflector


def test_at_most_ten_connections_a_minute_to_an_api_server_that_is_down() -> None:
    """Nor does anything keep it from being asked soon after it is back."""
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, delivered = make_reflector(fake, clock)
    reflector.step()
    tried: list[float] = []

    def refuse(method: str, path: str) -> None:
        tried.append(clock.now)
        raise REFUSED

    fake.fault = refuse
    down = clock.now
    while clock.now < down + 180:
        clock.now += reflector.step()
    assert max(len([at for at in tried if begin <= at < begin + 60]) for begin in tried) <= 10
    fake.fault = lambda method, path: None
    fake.put(JOBS, make_object(JOBS, "a"))
    up = clock.now
    while not held(delivered):
        clock.now += reflector.step()
    assert clock.now - up < 20


@pytest.mark.parametrize("status", [403, 429, 500])
def test_failures_in_a_row_are_rate_limited(status: int) -> None:
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, _ = make_reflector(fake, clock)
    tried: list[float] = []
    fake.fault = lambda method, path: tried.append(clock.now)
    fake._handle = lambda *_: _refusal(status)  # type: ignore[method-assign]
    end = clock.now + 120
    while clock.now < end:
        clock.now += reflector.step()
    tried = tried[::2]
    assert max(len([at for at in tried if begin <= at < begin + 60]) for begin in tried) <= 10
    assert not reflector.has_synced


def test_watches_that_end_at_once_do_not_spin() -> None:
    fake = FakeApiServer(JOBS)
    reflector, _ = make_reflector(fake)
    assert [reflector.step() >= 1 for _ in range(5)] == [True] * 5


def test_a_watch_that_breaks_after_a_long_life_resumes_at_once() -> None:
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, _ = make_reflector(fake, clock)

    def pass_time(lines: list[bytes]) -> list[bytes]:
        clock.now += 270
        return lines

    fake.garble = pass_time
    assert reflector.step() == 0


def test_a_request_held_back_is_retried_soon_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeApiServer(JOBS)
    reflector, _ = make_reflector(fake)

    def hold_back(*_: object, **__: object) -> None:
        raise Unreachable("held back", retry_after_seconds=1.0)

    reflector.api_server.list = hold_back  # type: ignore[method-assign, assignment]
    assert all(1.0 <= reflector.step() <= 1.5 for _ in range(20))
    assert caplog.records == []


def _refusal(status: int) -> Any:
    return FakeHttpResponse(status, json.dumps(status_body(status, "", "no")).encode())
