"""Requests go to the least loaded group; what arrives during a switch waits for the new layout."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from sglang.srt.managers.io_struct import AbortReq

from taper_rollout.sglang.facade import router as module
from taper_rollout.sglang.facade.router import Router, bounded


class Request(SimpleNamespace):
    """Stands for a tokenized request."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """(rank, request id or message) in the order of sending."""
    log: list[tuple[int, Any]] = []
    monkeypatch.setattr(module, "TokenizedGenerateReqInput", Request)
    monkeypatch.setattr(module, "sock_send", lambda rank, m: log.append((rank, getattr(m, "rid", m))))
    return log


def ask(router: Router, *names: str) -> None:
    for name in names:
        router.dispatch(Request(rid=name))


def test_a_message_for_a_rank_that_died_does_not_hang() -> None:
    """A socket without its other end would wait for ever."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.bind("inproc://rank")
        began = time.monotonic()
        Router(1, 1, [bounded(socket)]).dispatch(AbortReq(rid="", abort_all=True))
        assert time.monotonic() - began < 10


def test_requests_go_to_the_group_with_the_fewest(sent: list[tuple[int, Any]]) -> None:
    router = Router(4, 1, range(4))
    ask(router, "a", "b", "c", "d", "e")
    assert sent == [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (0, "e")]
    router.finished("c")
    ask(router, "f", "g")
    assert sent[5:] == [(2, "f"), (1, "g")]


def test_it_knows_which_group_serves_a_request(sent: list[tuple[int, Any]]) -> None:
    router = Router(4, 1, range(4))
    ask(router, "a", "b", "c")
    assert [router.group_of(name) for name in "abcd"] == [0, 1, 2, None]
    router.hold()
    router.move_to(2, {"a": 0, "b": 0, "c": 1})
    router.release()
    assert [router.group_of(name) for name in "abc"] == [0, 0, 1]
    router.finished("c")
    assert router.group_of("c") is None


@pytest.mark.parametrize(("degree", "ranks"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (4, [0])])
def test_anything_else_goes_to_the_leaders(
    sent: list[tuple[int, Any]], degree: int, ranks: list[int]
) -> None:
    Router(4, degree, range(4)).dispatch("abort")
    assert sent == [(rank, "abort") for rank in ranks]


def test_what_arrives_during_a_switch_is_sent_in_order_to_the_new_layout(sent: list[tuple[int, Any]]) -> None:
    router = Router(4, 1, range(4))
    ask(router, "a", "b", "c")
    router.hold()
    ask(router, "d")
    router.dispatch("abort")
    ask(router, "e")
    router.broadcast("switch")
    assert sent[3:] == [(rank, "switch") for rank in range(4)]
    router.move_to(2, {"a": 0, "b": 0, "c": 1})
    router.release()
    assert sent[7:] == [(2, "d"), (0, "abort"), (2, "abort"), (0, "e")]


def test_after_a_cancelled_switch_it_is_sent_to_the_old_one(sent: list[tuple[int, Any]]) -> None:
    router = Router(2, 1, range(2))
    ask(router, "a")
    router.hold()
    ask(router, "b")
    router.release()
    assert sent == [(0, "a"), (1, "b")]
    ask(router, "c")
    assert sent[2:] == [(0, "c")]


def test_a_request_that_ended_in_the_switch_counts_no_more(sent: list[tuple[int, Any]]) -> None:
    router = Router(2, 1, range(2))
    ask(router, "a", "b")
    router.hold()
    router.finished("a")
    router.move_to(2, {"b": 0})
    router.release()
    router.hold()
    router.move_to(1, {"b": 0})
    router.release()
    ask(router, "c", "d")
    assert sent[2:] == [(1, "c"), (0, "d")]


def test_a_pinned_group_gets_all(sent: list[tuple[int, Any]]) -> None:
    router = Router(2, 1, range(2))
    router.pinned = 1
    ask(router, "a", "b")
    assert sent == [(1, "a"), (1, "b")]
