"""The HTTPS server for reports, over real connections on loopback."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taper_api.status.job_report import MAX_SNAPSHOT_BYTES
from taper_operator.reports.refusal import STATUSES, Refused
from taper_operator.reports.server import ReportServer
from taper_operator.settings.certificate import ReloadedFiles, server_context
from taper_operator.settings.parsing import Address

from ..certificates import LOOPBACK, Files, make_certificates
from ..clock import Clock

REQUEST_SECONDS = 1.5
Received = tuple[str, str, bytes]


class Serving:
    """A server in a thread, which accepts everything by default."""

    def __init__(self, files: Files, **options: int) -> None:
        self.clock = Clock()
        self.results: list[str] = []
        self.received: list[Received] = []
        self.take: Callable[[Received], str] = lambda received: "accepted"
        pair = (files.certificate, files.key)
        certificate = ReloadedFiles(pair, lambda: server_context(*pair), clock=self.clock)
        self.server = ReportServer(
            Address(LOOPBACK, 0),
            self._receive,
            context=certificate.value,
            observe=self.results.append,
            request_seconds=REQUEST_SECONDS,
            **options,
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.ca = files.ca

    def _receive(self, path: str, authorization: str, body: bytes) -> str:
        self.received.append((path, authorization, body))
        return self.take(self.received[-1])

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.ca)
        return http.client.HTTPSConnection(LOOPBACK, self.server.port, timeout=10, context=context)

    def post(self, body: bytes = b"{}", **headers: str) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("POST", "/path", body, {"Authorization": "Bearer t"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def secure(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.ca)
        plain = socket.create_connection((LOOPBACK, self.server.port), timeout=10)
        return context.wrap_socket(plain, server_hostname=LOOPBACK)

    def wait_for(self, results: list[str]) -> None:
        deadline = time.monotonic() + 10
        while self.results != results and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.results == results

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serving(files: Files) -> Iterator[Serving]:
    serving = Serving(files)
    yield serving
    serving.stop()


def test_a_post_is_passed_on_and_answered_with_its_result(serving: Serving) -> None:
    assert serving.post(b"abc") == (202, b"accepted\n")
    assert serving.received == [("/path", "Bearer t", b"abc")]
    serving.wait_for(["accepted"])


@pytest.mark.parametrize("reason", [reason for reason in STATUSES if reason != "accepted"])
def test_each_refusal_has_its_status(serving: Serving, reason: str) -> None:
    def refuse(received: Received) -> str:
        raise Refused(reason)

    serving.take = refuse
    assert serving.post() == (STATUSES[reason], f"{reason}\n".encode())
    serving.wait_for([reason])


def test_an_internal_error_is_answered_without_details(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(received: Received) -> str:
        raise ZeroDivisionError("of ours")

    serving.take = fail
    assert serving.post() == (500, b"failed\n")
    assert "of ours" in caplog.text
    serving.take = lambda received: "accepted"
    assert serving.post() == (202, b"accepted\n")


def test_a_report_that_is_too_large_is_refused_by_its_length(serving: Serving) -> None:
    for length in (str(MAX_SNAPSHOT_BYTES + 1), "9" * 5000):
        with serving.secure() as connection:
            connection.sendall(f"POST /path HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            assert b" 413 " in connection.recv(4096)
    assert serving.post(b" " * MAX_SNAPSHOT_BYTES)[0] == 202
    assert len(serving.received) == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /path HTTP/1.1\r\n\r\n", b" 411 "),
        (b"POST /path HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b" 411 "),
        (b"POST /path HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", b" 411 "),
        (b"POST /path HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b" 411 "),
        (b"GET /path HTTP/1.1\r\n\r\n", b" 404 "),
        (b"\x00 \x01 \x02\r\n\r\n", b" 400 "),
        (b"POST /path HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b" 400 "),
        (b"POST /" + b"a" * 70_000, b""),
        (b"POST /path HTTP/1.1\r\n" + b"X: " + b"y" * 70_000, b""),
    ],
)
def test_requests_other_than_a_post_with_a_length_are_not_passed_on(
    serving: Serving, request_: bytes, status: bytes
) -> None:
    with serving.secure() as connection:
        try:
            connection.sendall(request_)
            assert status in connection.recv(4096)
        except OSError:
            assert not status, "it was to be answered"
    assert serving.received == []
    assert serving.post() == (202, b"accepted\n")


def test_silent_slow_and_endless_clients_are_cut_off_in_time(serving: Serving) -> None:
    silent = socket.create_connection((LOOPBACK, serving.server.port), timeout=10)
    halfway = socket.create_connection((LOOPBACK, serving.server.port), timeout=10)
    halfway.sendall(b"\x16\x03\x01")
    after_handshake, slow = serving.secure(), serving.secure()
    slow.sendall(b"POST /path HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
    began = time.monotonic()
    while time.monotonic() < began + REQUEST_SECONDS + 0.3:
        try:
            slow.sendall(b" ")
        except OSError:
            break
        time.sleep(0.05)
    serving_results = sorted(serving.results)
    for connection in (silent, halfway, after_handshake, slow):
        connection.close()
    assert serving_results == ["broken_off", "broken_off", "broken_off", "too_slow"]
    assert serving.received == []
    assert serving.post() == (202, b"accepted\n")


def test_plain_http_is_not_accepted(serving: Serving) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, serving.server.port, timeout=10)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("POST", "/path", b"{}")
        connection.getresponse()
    connection.close()
    assert serving.received == []
    serving.wait_for(["broken_off"])


def test_connections_beyond_the_maximum_are_closed(files: Files) -> None:
    serving = Serving(files, max_connections=2)
    held = [socket.create_connection((LOOPBACK, serving.server.port), timeout=10) for _ in range(2)]
    time.sleep(0.1)
    with pytest.raises(OSError):
        serving.post()
    assert serving.results == ["busy"]
    for connection in held:
        connection.close()
    serving.wait_for(["busy", "broken_off", "broken_off"])
    assert serving.post() == (202, b"accepted\n")
    serving.stop()


def test_a_certificate_that_changes_is_used_without_a_restart(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    serving = Serving(files)
    assert serving.post()[0] == 202
    make_certificates(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        serving.post()
    serving.clock.now += 10
    assert serving.post()[0] == 202
    serving.stop()


def test_after_stop_the_port_is_closed(files: Files) -> None:
    serving = Serving(files)
    serving.stop()
    with pytest.raises(ConnectionError):
        serving.post()


def test_an_address_in_use_is_reported_at_once(serving: Serving) -> None:
    with pytest.raises(OSError, match="in use"):
        ReportServer(
            Address(LOOPBACK, serving.server.port),
            lambda *_: "accepted",
            context=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            observe=lambda result: None,
        )
