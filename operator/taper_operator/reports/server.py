"""The HTTPS server that jobs post their reports to. A connection carries one request, within fixed bounds.

Bounds: connections at a time, total time (handshake included), bytes of the request and of its body. What
exceeds them gets an answer where that is cheap, and is cut off otherwise.

Invariants (asserted by `tests/operator/reports/test_server.py`):
- a client that is slow, silent or endless occupies a thread for `_REQUEST_SECONDS` and nothing more;
- a changed certificate is used by the next connection after it was noticed;
- every connection is counted once, by its result.
"""

from __future__ import annotations

import http.server
import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from taper_api.status.job_report import MAX_SNAPSHOT_BYTES
from taper_operator.http.listener import HttpListener
from taper_operator.reports.refusal import STATUSES, Refused
from taper_operator.settings.parsing import Address

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0
_MAX_CONNECTIONS = 64
_MAX_REQUEST_BYTES = 16 * 1024 + MAX_SNAPSHOT_BYTES
_RETRY_AFTER_SECONDS = 15
# The result of a connection without a complete request.
_INTERRUPTED = "broken_off"

# Given path, Authorization header and body; returns a key of STATUSES, or raises Refused.
Receive = Callable[[str, str, bytes], str]


class ReportServer(HttpListener):
    """See the module's docstring.

    context: returns the TLS context, called for each connection
    observe: called with the result of each connection
    """

    def __init__(
        self,
        address: Address,
        receive: Receive,
        *,
        context: Callable[[], ssl.SSLContext],
        observe: Callable[[str], None],
        request_seconds: float = _REQUEST_SECONDS,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        super().__init__(address, _Handler)
        self.receive = receive
        self._context = context
        self._observe = observe
        self._request_seconds = request_seconds
        self._free = threading.BoundedSemaphore(max_connections)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self._observe("busy")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs outside of the accepting thread: the client decides how long a handshake takes."""
        deadline = time.monotonic() + self._request_seconds
        result = _INTERRUPTED
        try:
            request.settimeout(self._request_seconds)
            context = self._context()
            with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secure:
                secure.do_handshake()
                result = _Handler(secure, client_address, self, deadline).result
        except OSError as error:
            log.debug("a connection was interrupted: %s", error)
        finally:
            self._observe(result)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ReportServer
    server_version = "taper-operator"
    sys_version = ""
    # So that a malformed request also gets a full answer.
    default_request_version = "HTTP/1.0"

    def __init__(self, request: Any, client_address: Any, server: ReportServer, deadline: float) -> None:
        self._deadline = deadline
        self.result = _INTERRUPTED
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_BoundedReader(self.connection, self._deadline, _MAX_REQUEST_BYTES))

    def do_POST(self) -> None:
        try:
            result = self.server.receive(self.path, self.headers.get("Authorization", ""), self._body())
        except Refused as refused:
            result = refused.reason
        except TimeoutError:
            result = "too_slow"
        except OSError:
            raise
        except Exception:
            log.exception("a report could not be handled")
            result = "failed"
        self._answer(result)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise Refused("no_length")
        # The length first: parsing a number of a thousand digits is slow.
        if len(length) > 9 or int(length) > MAX_SNAPSHOT_BYTES:
            raise Refused("too_large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused("malformed")
        return body

    def _answer(self, result: str) -> None:
        self.result = result
        self.connection.settimeout(max(0.1, self._deadline - time.monotonic()))
        status = STATUSES[result]
        body = f"{result}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", str(_RETRY_AFTER_SECONDS))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers a malformed request, or one that is no POST."""
        self._answer("malformed" if code != 501 else "not_found")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing: every job posts every 15 s."""


class _BoundedReader(io.RawIOBase):
    """Reads from a socket until a deadline, and at most a given number of bytes."""

    def __init__(self, connection: socket.socket, deadline: float, max_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._bytes_left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError past the deadline; returns the end of the stream after the allowed bytes."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(seconds)
        num_bytes = (
            self._connection.recv_into(memoryview(buffer)[: self._bytes_left]) if self._bytes_left else 0
        )
        self._bytes_left -= num_bytes
        return num_bytes
