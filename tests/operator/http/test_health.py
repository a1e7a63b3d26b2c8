"""The server for probes and Prometheus, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping

import pytest

from taper_operator.http.health import HealthServer, MakePage, Page, text_page
from taper_operator.settings.parsing import Address


@contextlib.contextmanager
def serving(host: str, pages: Mapping[str, MakePage]) -> Iterator[HealthServer]:
    server = HealthServer(Address(host, 0), pages)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def get(host: str, port: int, path: str, accept: str = "") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_pages_are_served_at_their_paths_and_nothing_else() -> None:
    pages = {
        "/healthz": lambda accept: text_page(["ended: work", "stuck"]),
        "/readyz": lambda accept: text_page([]),
        "/metrics": lambda accept: Page(200, "text/x", accept.encode()),
    }
    with serving("127.0.0.1", pages) as server:
        assert get("127.0.0.1", server.port, "/readyz") == (200, "text/plain; charset=utf-8", b"ok\n")
        assert get("127.0.0.1", server.port, "/healthz?verbose")[::2] == (503, b"ended: work\nstuck\n")
        assert get("127.0.0.1", server.port, "/metrics", "text/y") == (200, "text/x", b"text/y")
        assert get("127.0.0.1", server.port, "/")[0] == 404
    with pytest.raises(ConnectionError):
        get("127.0.0.1", server.port, "/readyz")


def test_no_host_means_both_families() -> None:
    with serving("", {"/readyz": lambda accept: text_page([])}) as server:
        for host in ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]:
            assert get(host, server.port, "/readyz")[0] == 200


def test_loopback_is_loopback_only() -> None:
    with serving("127.0.0.1", {}) as server, pytest.raises(ConnectionError):
        get("127.0.0.2", server.port, "/readyz")


def test_an_address_in_use_is_reported_at_once() -> None:
    first = HealthServer(Address("127.0.0.1", 0), {})
    try:
        with pytest.raises(OSError, match="in use"):
            HealthServer(Address("127.0.0.1", first.port), {})
    finally:
        first.server_close()
