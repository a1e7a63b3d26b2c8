"""Connections to an API server, over real sockets: requests, broken connections, the circuit breaker."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from taper_operator.kube import errors as api_error
from taper_operator.kube import request
from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.client import ApiServer
from taper_operator.kube.connection import connect, fence_connections
from taper_operator.kube.errors import ApiError
from taper_operator.kube.resource import ObjectKey
from taper_operator.settings.settings import SettingsError

from ..clock import Clock
from ..fake_api_server import JOBS, FakeApiServer, make_object

KEY = ObjectKey("team", "a")

Script = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that answers as the script does; gives its URL and the methods that reached it."""
    reached: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            reached.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script(self)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", reached
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def begin_chunks(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def send_chunk(handler: http.server.BaseHTTPRequestHandler, text: bytes) -> None:
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
    handler.wfile.flush()


def client_of(url: str) -> ApiClient:
    configuration = Configuration(host=url)
    configuration.retries = False
    return ApiClient(configuration)


def server_of(url: str, **options: Any) -> ApiServer:
    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    breaker.answered()
    options = {"client": client_of(url), "breaker": breaker, "field_manager": "test"} | options
    return ApiServer(options.pop("client"), clock=Clock(), **options)


def event(name: str, type_: str = "ADDED") -> bytes:
    return json.dumps({"type": type_, "object": make_object(JOBS, name)}).encode() + b"\n"


def test_a_write_travels_as_json_with_its_content_type() -> None:
    seen: list[tuple[str, str]] = []

    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append((handler.headers["Content-Type"], handler.headers["Accept"]))
        reply(handler, 200, json.dumps(make_object(JOBS, "a")).encode())

    with serving(script) as (url, _):
        server_of(url).apply(JOBS, make_object(JOBS, "a"))
        server_of(url).create(JOBS, make_object(JOBS, "a"))
    assert seen == [
        ("application/apply-patch+yaml", "application/json"), ("application/json", "application/json"),
    ]  # fmt: skip


def test_events_come_as_they_happen_however_they_are_cut() -> None:
    """Each event is received before the next is sent, and one arrives in pieces, within a letter."""
    received = threading.Semaphore(0)
    text = event("größer")

    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        begin_chunks(handler)
        send_chunk(handler, event("a"))
        assert received.acquire(timeout=10)
        cut = text.index(b"\\u00f6") + 2
        send_chunk(handler, text[:cut])
        send_chunk(handler, text[cut:] + event("b") + b"\n")
        assert received.acquire(timeout=10)
        send_chunk(handler, event("cut off")[:-9])
        send_chunk(handler, b"")

    names = []
    with (
        serving(script) as (url, _),
        contextlib.closing(server_of(url).watch(JOBS, resource_version="1")) as watch,
    ):
        for type_, obj in watch:
            assert type_ == "ADDED"
            names.append(obj["metadata"]["name"])
            received.release()
    assert names == ["a", "größer", "b"]


def test_a_broken_watch_is_unreachable_and_opens_the_circuit() -> None:
    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        begin_chunks(handler)
        send_chunk(handler, event("a"))
        handler.connection.shutdown(socket.SHUT_RDWR)

    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    with (
        serving(script) as (url, _),
        contextlib.closing(server_of(url, breaker=breaker).watch(JOBS, resource_version="1")) as watch,
        pytest.raises(api_error.Unreachable),
    ):
        list(watch)
    assert breaker.is_open


def test_a_waiting_watch_can_be_stopped() -> None:
    waiting = threading.Event()
    over = threading.Event()

    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        begin_chunks(handler)
        waiting.set()
        over.wait(10)

    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    with serving(script) as (url, _):
        watch = server_of(url, breaker=breaker).watch(JOBS, resource_version="1")
        events: list[object] = []
        thread = threading.Thread(target=lambda: events.extend(watch))
        thread.start()
        assert waiting.wait(10)
        watch.stop()
        thread.join(5)
        assert not thread.is_alive()
        watch.close()
        watch.stop()
        over.set()
    assert events == []
    assert not breaker.is_open


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}\n', api_error.Gone),
        (b'{"type": "ERROR", "object": {}}\n', api_error.ServerError),
        (b"<html>\n", api_error.Unreachable),
        (b'{"type": "ADDED"}\n', api_error.Unreachable),
        (b"[]\n", api_error.Unreachable),
    ],
)
def test_a_watch_may_send_an_error_instead_of_events(line: bytes, kind: type[ApiError]) -> None:
    fake = FakeApiServer(JOBS)
    fake.garble = lambda lines: [line]
    watch = fake.api_server().watch(JOBS, resource_version="1000")
    with contextlib.closing(watch), pytest.raises(kind):
        list(watch)


def test_redirects_are_not_followed() -> None:
    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        reply(handler, 307, b"", Location="/elsewhere")

    with serving(script) as (url, reached):
        with pytest.raises(ApiError) as caught:
            server_of(url).get(JOBS, KEY)
        assert caught.value.status == 307
        assert reached == ["GET"]


def test_a_refused_connection_is_not_tried_by_others() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = server_of(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(api_error.Unreachable) as caught:
            server.get(JOBS, KEY)
        assert caught.value.retry_after_seconds is None
        with pytest.raises(api_error.Unreachable) as caught:
            server.get(JOBS, KEY)
        assert caught.value.retry_after_seconds == 1.0


@pytest.mark.parametrize("cut", [True, False])
def test_a_connection_that_ends_early_is_unreachable(cut: bool) -> None:
    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        if cut:
            handler.send_response(200)
            handler.send_header("Content-Length", "100")
            handler.end_headers()
            handler.wfile.write(b'{"a":')
        handler.close_connection = True

    with serving(script) as (url, reached), pytest.raises(api_error.Unreachable):
        server_of(url).get(JOBS, KEY)
    assert reached == ["GET"]


def test_a_slow_answer_is_unreachable_and_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(request, "GRACE_SECONDS", 0.02)
    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    breaker.answered()
    with serving(lambda handler: (over.wait(10), None)[1]) as (url, _):
        server = server_of(url, breaker=breaker, write_seconds_left=lambda: 0.03)
        with pytest.raises(api_error.Unreachable, match="no answer in"):
            server.get(JOBS, KEY, read_seconds=0.05)
        with pytest.raises(api_error.Unreachable, match="no answer in 0"):
            server.create(JOBS, make_object(JOBS, "a"))
        over.set()
    assert not breaker.is_open


def test_the_fence_is_checked_once_more_on_the_open_connection() -> None:
    """A process that was suspended while it connected sends nothing when it resumes."""
    left = iter([5.0, 0.0, 5.0, 5.0])

    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        reply(handler, 200, json.dumps(make_object(JOBS, "a")).encode())

    with serving(script) as (url, reached):
        client = client_of(url)
        fence_connections(client, lambda: next(left))
        server = server_of(url, client=client, write_seconds_left=lambda: next(left))
        with pytest.raises(api_error.NotLeader):
            server.create(JOBS, make_object(JOBS, "a"))
        assert reached == []
        server.get(JOBS, KEY)
        server.create(JOBS, make_object(JOBS, "a"))
        assert reached == ["GET", "POST"]


def test_a_client_is_made_from_a_kubeconfig(tmp_path: Any) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": "http://127.0.0.1:1"}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            "users": [{"name": "t", "user": {"token": "abc"}}],
        })
    )  # fmt: skip
    client = connect(str(file))
    assert client.configuration.host == "http://127.0.0.1:1"
    assert client.configuration.retries is False
    assert client.configuration.keep_alive is True
    with pytest.raises(SettingsError, match="kubeconfig"):
        connect(str(tmp_path / "missing"))


def test_outside_of_a_cluster_a_kubeconfig_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SettingsError, match="kubeconfig"):
        connect()
