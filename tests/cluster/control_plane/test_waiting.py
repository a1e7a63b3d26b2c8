"""Waits end when nothing happens any more, and cost little while they last."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from .cluster import wait_for


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked_at: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def wait_for(self, ask: Callable[[], Any], seconds: float = 30.0, **options: Any) -> Any:
        def asked() -> Any:
            self.asked_at.append(self.seconds)
            return ask()

        return wait_for(asked, seconds, clock=lambda: self.seconds, sleep=self.sleep, **options)


def test_a_wait_returns_the_value() -> None:
    clock = Clock()
    assert clock.wait_for(lambda: clock.seconds if clock.seconds > 5 else None) == pytest.approx(5, abs=0.5)


def test_a_wait_without_change_ends_at_the_deadline() -> None:
    clock = Clock()
    with pytest.raises(AssertionError, match=r"not within 30.0 s; stuck"):
        clock.wait_for(lambda: None, why=lambda: "stuck", moves=lambda: "the same")
    assert clock.seconds == pytest.approx(30)


def test_a_wait_continues_while_the_value_changes() -> None:
    clock = Clock()
    with pytest.raises(AssertionError):
        clock.wait_for(lambda: None, moves=lambda: min(clock.seconds // 10, 5))
    assert clock.seconds == pytest.approx(50 + 30, abs=1)


def test_a_long_wait_polls_rarely_and_ends_hardly_later() -> None:
    clock = Clock()
    with pytest.raises(AssertionError):
        clock.wait_for(lambda: None, 60.0)
    assert len(clock.asked_at) < 120
    for before, after in itertools.pairwise(clock.asked_at):
        assert after - before <= min(1.0, max(0.1, 0.05 * before)) + 1e-9
