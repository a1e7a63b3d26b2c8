"""Reports over TLS to a server on loopback, which may be slow, wrong or missing: the run never waits."""

import http.server
import importlib.util
import itertools
import json
import logging
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import pytest

from taper_api import JobError
from taper_api.status.job_report import JobReport
from taper_api.status.progress import TrainingFigures
from taper_rollout.report.report_sender import ReportSender, ReportTarget

LOOPBACK = "127.0.0.1"
SOON = 0.05


def make_certificates(folder, host=LOOPBACK):
    file = Path(__file__).parents[2] / "operator" / "certificates.py"
    spec = importlib.util.spec_from_file_location("taper_test_certificates", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_certificates(folder, host)


class Listener:
    """A server that keeps the posts it receives. delay: seconds before it answers"""

    def __init__(self, files, *, status=202, delay=0.0, location=""):
        received = self.received = []
        self.status, self.delay = status, delay

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler):  # noqa: N805
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                received.append((time.monotonic(), handler.path, handler.headers["Authorization"], body))
                time.sleep(self.delay)
                handler.send_response(self.status)
                if location:
                    handler.send_header("Location", location)
                handler.end_headers()

            def log_message(handler, *_):  # noqa: N805
                pass

        self.server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://{LOOPBACK}:{self.server.server_address[1]}/v1/x/snapshots"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def sequences(self):
        return [body["sequence"] for _, _, _, body in self.received]

    def wait_for(self, number):
        deadline = time.monotonic() + 10
        while len(self.received) < number and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.received) >= number

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Maker:
    def __init__(self):
        self.sequence = 0

    def __call__(self, is_last):
        self.sequence += 1
        figures = TrainingFigures(step=self.sequence, steps=9)
        return JobReport(attempt=2, sequence=self.sequence, is_last=is_last, training=figures)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def listen(files):
    listeners = []

    def start(**options):
        listeners.append(Listener(options.pop("files", files), **options))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.stop()


@pytest.fixture
def sender_to(files, tmp_path):
    def make(url, *, report_seconds=SOON, ca=files.ca):
        (tmp_path / "token").write_text("token-1\n")
        target = ReportTarget(url=url, ca=Path(ca), token=tmp_path / "token", attempt=2)
        return ReportSender(target, Maker(), report_seconds=report_seconds)

    return make


def test_the_first_report_each_change_and_the_last_report_are_posted(listen, sender_to, tmp_path):
    listener = listen()
    sender = sender_to(listener.url)
    sender.start()
    listener.wait_for(1)
    (tmp_path / "token").write_text("token-2")
    sender.changed()
    listener.wait_for(2)
    sender.close()
    assert [body["isLast"] for *_, body in listener.received] == [False, False, True]
    assert listener.sequences == [1, 2, 3]
    assert {path for _, path, _, _ in listener.received} == {"/v1/x/snapshots"}
    assert [token for _, _, token, _ in listener.received] == [
        "Bearer token-1",
        "Bearer token-2",
        "Bearer token-2",
    ]


def test_frequent_changes_are_posted_once_per_interval(listen, sender_to):
    listener = listen()
    sender = sender_to(listener.url, report_seconds=0.2)
    sender.start()
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        sender.changed()
    sender.close()
    times = [at for at, *_ in listener.received][:-1]
    assert 3 <= len(times) <= 4
    assert all(later - earlier >= 0.19 for earlier, later in itertools.pairwise(times))


def test_without_a_change_nothing_is_posted(listen, sender_to):
    listener = listen()
    sender = sender_to(listener.url)
    sender.start()
    listener.wait_for(1)
    time.sleep(5 * SOON)
    assert len(listener.received) == 1
    sender.close()


def test_a_close_that_meets_a_change_is_not_missed(listen, sender_to):
    listener = listen()
    sender = sender_to(listener.url, report_seconds=60)

    class Met(threading.Event):
        def clear(self):
            """`close` comes just before."""
            sender._closes_at = time.monotonic() + 5
            sender._is_closing.set()
            self.set()
            super().clear()

    sender._has_changed = Met()
    sender._has_changed.set()
    sender.start()
    sender._thread.join(5)
    assert not sender._thread.is_alive()
    assert [body["isLast"] for *_, body in listener.received] == [True]


def test_the_run_does_not_wait_for_a_server_that_hangs(listen, sender_to, caplog):
    listener = listen(delay=30.0)
    sender = sender_to(listener.url)
    sender.start()
    listener.wait_for(1)
    began = time.monotonic()
    for _ in range(1000):
        sender.changed()
    assert time.monotonic() - began < 0.2
    began = time.monotonic()
    sender.close(grace_seconds=0.3)
    assert time.monotonic() - began < 1.0
    assert "could not be sent to the operator within 0.3 s" in caplog.text


def test_without_a_server_the_run_continues_and_one_error_is_logged(sender_to, caplog):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        url = f"https://{LOOPBACK}:{taken.getsockname()[1]}/"
        sender = sender_to(url, report_seconds=0.01)
        with caplog.at_level(logging.INFO):
            sender.start()
            for _ in range(30):
                sender.changed()
                time.sleep(0.01)
            sender.close(grace_seconds=0.6)
    logged = [record for record in caplog.records if "do not reach the operator" in record.message]
    assert len(logged) == 1
    assert "ConnectionRefusedError" in logged[0].message


def test_a_server_that_comes_back_receives_the_newest_report(listen, sender_to, caplog):
    listener = listen(status=503)
    sender = sender_to(listener.url, report_seconds=0.02)
    sender.start()
    listener.wait_for(1)
    sender.changed()
    listener.wait_for(2)
    listener.status = 202
    sender.changed()
    listener.wait_for(3)
    sender.close()
    assert "HTTP 503" in caplog.text
    assert listener.sequences == sorted(listener.sequences)


def test_the_last_report_is_retried_within_its_grace_period(listen, sender_to):
    listener = listen(status=503)
    sender = sender_to(listener.url, report_seconds=60)
    sender.start()
    listener.wait_for(1)
    threading.Timer(0.3, lambda: setattr(listener, "status", 202)).start()
    sender.close(grace_seconds=5.0)
    assert [body["isLast"] for *_, body in listener.received][1:] == [True, True]


def test_a_stale_report_is_not_repeated(listen, sender_to, caplog):
    listener = listen(status=409)
    sender = sender_to(listener.url)
    sender.start()
    listener.wait_for(1)
    sender.close()
    assert len(listener.received) == 2
    assert caplog.records == []


def test_a_server_without_a_trusted_certificate_receives_nothing(listen, sender_to, tmp_path, caplog):
    listener = listen(files=make_certificates(tmp_path / "other"))
    sender = sender_to(listener.url)
    sender.start()
    sender.close(grace_seconds=0.5)
    assert listener.received == []
    assert "SSLCertVerificationError" in caplog.text


def test_the_certificate_must_name_the_server(listen, sender_to, tmp_path, caplog):
    named = make_certificates(tmp_path, "another.host")
    listener = listen(files=named)
    sender = sender_to(listener.url, ca=named.ca)
    sender.start()
    sender.close(grace_seconds=0.5)
    assert listener.received == []
    assert "IP address mismatch" in caplog.text


def test_redirects_are_not_followed(listen, sender_to):
    elsewhere = listen()
    listener = listen(status=307, location=elsewhere.url)
    sender = sender_to(listener.url)
    sender.start()
    listener.wait_for(1)
    sender.close(grace_seconds=0.2)
    assert elsewhere.received == []


def test_the_token_is_never_logged(listen, sender_to, tmp_path, caplog):
    listener = listen()
    sender = sender_to(listener.url)
    (tmp_path / "token").write_text("secret one\nsecret two")
    sender.start()
    sender.close(grace_seconds=0.2)
    assert listener.received == []
    assert "does not contain a token" in caplog.text
    assert "secret" not in caplog.text


ENVIRONMENT = {
    "TAPER_REPORT_URL": "https://a:8443/x",
    "TAPER_REPORT_CA": "/ca",
    "TAPER_REPORT_TOKEN": "/token",
    "TAPER_ATTEMPT": "3",
}


def test_the_target_is_read_from_the_environment():
    target = ReportTarget.of(ENVIRONMENT)
    assert target == ReportTarget(url="https://a:8443/x", ca=Path("/ca"), token=Path("/token"), attempt=3)
    assert ReportTarget.of({"TAPER_ATTEMPT": "3"}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAPER_REPORT_CA", ""),
        ("TAPER_REPORT_TOKEN", ""),
        ("TAPER_ATTEMPT", ""),
        ("TAPER_ATTEMPT", "0"),
        ("TAPER_ATTEMPT", "one"),
        ("TAPER_REPORT_URL", "http://a:8443/x"),
        ("TAPER_REPORT_URL", "https:///x"),
    ],
)
def test_an_incomplete_or_bad_target_is_refused_by_variable(name, value):
    with pytest.raises(JobError, match=f"^{name}: "):
        ReportTarget.of(ENVIRONMENT | {name: value})
