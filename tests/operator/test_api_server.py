"""Requests as they leave, and answers and failures as they come back: from memory and over real sockets."""

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
import urllib3
from kubernetes.client import ApiClient, Configuration

from taper_operator import api_error, api_server
from taper_operator.api_error import ApiError
from taper_operator.api_server import ApiServer, connect, fence_connections
from taper_operator.circuit_breaker import CircuitBreaker
from taper_operator.resource import ObjectKey, Resource
from taper_operator.settings import SettingsError

from .clock import Clock
from .fake_api_server import JOBS, PODS, FakeApiServer, FakeHttpResponse, make_object, status_body

KEY = ObjectKey("team", "a")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)


def answering(status: int, body: Any) -> tuple[ApiServer, FakeApiServer]:
    fake = FakeApiServer(JOBS)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    fake._handle = lambda *_: FakeHttpResponse(status, text)  # type: ignore[method-assign]
    return fake.api_server(), fake


# -- requests --------------------------------------------------------------------------


def test_paths_are_those_of_the_api() -> None:
    fake = FakeApiServer(JOBS, PODS, NODES)
    server = fake.api_server()
    for resource, namespace in ((JOBS, "team"), (JOBS, ""), (PODS, "team"), (NODES, "team")):
        server.list(resource, namespace=namespace)
    assert [path for _, path, _, _ in fake.requests] == [
        "/apis/taper.dev/v1alpha1/namespaces/team/rlhfjobs",
        "/apis/taper.dev/v1alpha1/rlhfjobs",
        "/api/v1/namespaces/team/pods",
        "/api/v1/nodes",
    ]


def test_a_name_cannot_leave_its_place_in_the_path() -> None:
    fake = FakeApiServer(JOBS)
    with pytest.raises(ApiError):
        fake.api_server().get(JOBS, ObjectKey("team", "../../pods?x=1"))
    assert fake.requests[0][1].endswith("/rlhfjobs/..%2F..%2Fpods%3Fx%3D1")


def test_a_list_goes_through_all_pages_and_tells_their_version() -> None:
    fake = FakeApiServer(PODS, page=2)
    for name in "abcde":
        fake.put(PODS, make_object(PODS, name, labels={"x": "y" if name != "c" else "z"}))
    listed = fake.api_server().list(PODS, namespace="team", label_selector="x=y")
    assert [pod["metadata"]["name"] for pod in listed.items] == ["a", "b", "d", "e"]
    assert {(pod["apiVersion"], pod["kind"]) for pod in listed.items} == {("v1", "Pod")}
    assert listed.resource_version == str(fake.version)
    assert [query.get("continue") for _, _, query, _ in fake.requests] == [None, f"{fake.version}:2"]
    assert "resourceVersion" not in fake.requests[0][2]


def test_a_list_whose_next_page_is_too_old_is_gone() -> None:
    fake = FakeApiServer(PODS, page=1)
    for name in "ab":
        fake.put(PODS, make_object(PODS, name))

    def change_meanwhile(method: str, path: str) -> None:
        if method == "after GET":
            fake.put(PODS, make_object(PODS, "c"))
            fake.compact()

    fake.fault = change_meanwhile
    with pytest.raises(api_error.Gone):
        fake.api_server().list(PODS)


def test_what_a_write_asks_for() -> None:
    fake = FakeApiServer(JOBS)
    server = fake.api_server()
    created = server.create(JOBS, make_object(JOBS, "a"), dry_run=True)
    server.apply(JOBS, {"metadata": {"name": "a", "namespace": "team"}, "spec": {"n": 1}})
    applied = server.apply_status(JOBS, make_object(JOBS, "a", status={"x": 1}), field_manager="progress")
    server.replace_status(JOBS, applied | {"status": {"x": 2}})
    server.delete(JOBS, KEY, uid=created["metadata"]["uid"], grace_period_seconds=0)
    methods = [(method, path.rpartition("/")[2]) for method, path, _, _ in fake.requests]
    assert methods == [
        ("POST", "rlhfjobs"), ("PATCH", "a"), ("PATCH", "status"), ("PUT", "status"), ("DELETE", "a"),
    ]  # fmt: skip
    create, apply, status, replace, delete = (query for _, _, query, _ in fake.requests)
    assert create == {
        "fieldManager": "test", "fieldValidation": "Strict", "dryRun": "All", "timeout": "60000ms",
    }  # fmt: skip
    assert (apply["force"], apply["fieldManager"]) == ("true", "test")
    assert fake.requests[1][3]["kind"] == "RLHFJob"
    assert status["fieldManager"] == "progress"
    assert replace["fieldValidation"] == "Strict"
    assert delete == {"timeout": "60000ms"}
    assert fake.requests[4][3] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": created["metadata"]["uid"]},
        "propagationPolicy": "Background",
        "gracePeriodSeconds": 0,
    }


def test_preconditions_are_held() -> None:
    fake = FakeApiServer(JOBS)
    server = fake.api_server()
    job = fake.put(JOBS, make_object(JOBS, "a"))
    fake.put(JOBS, make_object(JOBS, "a", spec={"n": 2}))
    with pytest.raises(api_error.Conflict, match="modified"):
        server.replace(JOBS, job)
    with pytest.raises(api_error.Conflict, match="Precondition"):
        server.delete(JOBS, KEY, uid="another")
    with pytest.raises(api_error.Conflict):
        server.delete(
            JOBS,
            KEY,
            uid=job["metadata"]["uid"],
            resource_version=job["metadata"]["resourceVersion"],
        )
    with pytest.raises(AssertionError):
        server.replace(JOBS, make_object(JOBS, "a"))
    with pytest.raises(api_error.AlreadyExists):
        server.create(JOBS, make_object(JOBS, "a"))


# -- failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", api_error.BadRequest),
        (401, "Unauthorized", api_error.Unauthorized),
        (403, "Forbidden", api_error.Forbidden),
        (404, "NotFound", api_error.NotFound),
        (409, "Conflict", api_error.Conflict),
        (409, "AlreadyExists", api_error.AlreadyExists),
        (410, "Expired", api_error.Gone),
        (410, "Gone", api_error.Gone),
        (413, "RequestEntityTooLarge", ApiError),
        (422, "Invalid", api_error.Invalid),
        (429, "TooManyRequests", api_error.TooManyRequests),
        (500, "InternalError", api_error.ServerError),
        (503, "ServiceUnavailable", api_error.ServerError),
        (504, "Timeout", api_error.ServerError),
    ],
)
def test_each_status_has_its_error(status: int, reason: str, kind: type[ApiError]) -> None:
    causes = [{"reason": "FieldValueInvalid", "message": "no", "field": "spec.n"}]
    details = {"name": "a", "causes": causes, "retryAfterSeconds": 3}
    server, _ = answering(status, status_body(status, reason, "it is so", details))
    with pytest.raises(ApiError, match="it is so") as caught:
        server.get(JOBS, KEY)
    assert type(caught.value) is kind
    error = caught.value
    assert (error.status, error.reason, error.retry_after_seconds) == (status, reason, 3.0)
    assert error.causes == tuple(causes)


def test_a_kind_that_is_not_served_is_told_from_a_missing_object() -> None:
    fake = FakeApiServer(JOBS)
    with pytest.raises(api_error.ResourceNotServed):
        fake.api_server().list(PODS)
    with pytest.raises(api_error.NotFound) as caught:
        fake.api_server().get(JOBS, KEY)
    assert type(caught.value) is api_error.NotFound


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"[1]", b'{"kind": "Other"}', b"\xff"])
def test_an_answer_of_something_in_between_is_an_error_too(body: bytes) -> None:
    server, _ = answering(502, body)
    with pytest.raises(api_error.ServerError):
        server.get(JOBS, KEY)
    server, _ = answering(200, b"<html>Log in</html>")
    with pytest.raises(api_error.Unreachable):
        server.get(JOBS, KEY)
    server, _ = answering(302, body)
    with pytest.raises(ApiError):
        server.get(JOBS, KEY)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("1e9", None)]
)
def test_retry_after_is_taken_where_it_makes_sense(header: str, seconds: float | None) -> None:
    fake = FakeApiServer(JOBS)
    headers = {"Retry-After": header}
    fake._handle = lambda *_: FakeHttpResponse(429, b"", headers=headers)  # type: ignore[method-assign]
    with pytest.raises(api_error.TooManyRequests) as caught:
        fake.api_server().get(JOBS, KEY)
    assert caught.value.retry_after_seconds == seconds


def test_every_request_is_observed() -> None:
    observed: list[tuple[str, int]] = []
    fake = FakeApiServer(JOBS)
    server = fake.api_server(observe=lambda method, status: observed.append((method, status)))
    server.create(JOBS, make_object(JOBS, "a"))
    with pytest.raises(ApiError):
        server.create(JOBS, make_object(JOBS, "a"))

    def refuse(method: str, path: str) -> None:
        raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]

    fake.fault = refuse
    with pytest.raises(api_error.Unreachable):
        server.get(JOBS, KEY)
    assert observed == [("POST", 201), ("POST", 409), ("GET", 0)]


# -- the fence -------------------------------------------------------------------------


def test_who_may_not_write_reads_only() -> None:
    fake = FakeApiServer(JOBS)
    job = fake.put(JOBS, make_object(JOBS, "a"))
    server = fake.api_server(write_seconds_left=lambda: 0.0)
    writes: list[Callable[[], object]] = [
        lambda: server.create(JOBS, make_object(JOBS, "b")),
        lambda: server.apply(JOBS, make_object(JOBS, "b")),
        lambda: server.apply_status(JOBS, make_object(JOBS, "a")),
        lambda: server.replace(JOBS, job),
        lambda: server.delete(JOBS, KEY, uid=job["metadata"]["uid"]),
    ]
    for write in writes:
        with pytest.raises(api_error.NotLeader):
            write()
    assert fake.requests == []
    assert server.get(JOBS, KEY) == job


@pytest.mark.parametrize(("left", "timeout"), [(4.25, "4250ms"), (0.0001, "1ms"), (1e9, "60000ms")])
def test_the_api_server_is_told_how_long_a_write_may_take(left: float, timeout: str) -> None:
    fake = FakeApiServer(JOBS)
    fake.api_server(write_seconds_left=lambda: left).create(JOBS, make_object(JOBS, "a"))
    assert fake.requests[0][2]["timeout"] == timeout


# -- over sockets ----------------------------------------------------------------------

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
        server_of(url).watch(JOBS, resource_version="1") as watch,
    ):
        for type_, obj in watch:
            assert type_ == "ADDED"
            names.append(obj["metadata"]["name"])
            received.release()
    assert names == ["a", "größer", "b"]


def test_a_watch_that_breaks_is_unreachable_and_makes_others_careful() -> None:
    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        begin_chunks(handler)
        send_chunk(handler, event("a"))
        handler.connection.shutdown(socket.SHUT_RDWR)

    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    with (
        serving(script) as (url, _),
        server_of(url, breaker=breaker).watch(JOBS, resource_version="1") as watch,
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
def test_what_a_watch_may_tell_instead_of_events(line: bytes, kind: type[ApiError]) -> None:
    fake = FakeApiServer(JOBS)
    fake.garble = lambda lines: [line]
    with fake.api_server().watch(JOBS, resource_version="1000") as watch, pytest.raises(kind):
        list(watch)


def test_redirects_are_not_followed() -> None:
    def script(handler: http.server.BaseHTTPRequestHandler) -> None:
        reply(handler, 307, b"", Location="/elsewhere")

    with serving(script) as (url, reached):
        with pytest.raises(ApiError) as caught:
            server_of(url).get(JOBS, KEY)
        assert caught.value.status == 307
        assert reached == ["GET"]


def test_a_refused_connection_is_tried_once_and_then_not_by_others() -> None:
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
    monkeypatch.setattr(api_server, "_GRACE_SECONDS", 0.02)
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


def test_the_last_look_at_the_fence_is_when_the_connection_stands() -> None:
    """A process that was stopped while it connected sends nothing when it goes on."""
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


def test_outside_of_a_cluster_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SettingsError, match="kubeconfig"):
        connect()
