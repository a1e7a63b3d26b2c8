"""One HTTP request to the API server, and how it is sent.

Nothing is retried here: the caller knows when to try again. A write is safe because:

- a sender that must lead asks `write_seconds_left` before each write, and once more on the open connection,
  right before the first byte: connecting may have taken long, or the process may have been stopped;
- the API server is asked to give up on a write after that time (the query parameter `timeout`), and the
  sender waits a little longer than that: a write without an answer in this time takes no effect later.

Read in kubernetes 37.0.1: `ApiClient.param_serialize` and `call_api`, `RESTResponse.response`.

Invariants (asserted by `tests/operator/kube/test_client.py`):
- every failure is an `ApiError`;
- no redirect is followed and nothing is tried twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, cast

import urllib3

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.connection import TRANSPORT_ERRORS, WRITE_METHODS, ApiClient, WriteSecondsLeft
from taper_operator.kube.errors import NotLeader, Unreachable, error_from_response
from taper_operator.kube.json_decoder import decoded
from taper_operator.kube.resource import KubeObject

CONNECT_SECONDS = 5.0
# The API server gives up on any request but a watch after 60 s, so longer than that means it is gone.
READ_SECONDS = 65.0
MAX_WRITE_SECONDS = 60.0
GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """query: an empty value is left out; read_seconds: how long to wait for the answer"""

    method: str
    path: str
    _: KW_ONLY
    query: Mapping[str, str] = field(default_factory=dict)
    body: KubeObject | None = None
    content_type: str = "application/json"
    read_seconds: float = READ_SECONDS


@dataclass(eq=False)
class RequestSender:
    """See the module's docstring. Its methods may be called from any thread; all raise `ApiError`.

    write_seconds_left: for how long a write may take effect, 0 or less for not at all
    observe: called with method and HTTP status (0 without an answer) of each request
    """

    client: ApiClient
    _: KW_ONLY
    breaker: CircuitBreaker
    write_seconds_left: WriteSecondsLeft = lambda: MAX_WRITE_SECONDS
    observe: Callable[[str, int], None] = lambda method, status: None
    connect_seconds: float = CONNECT_SECONDS

    def json(self, request: Request) -> KubeObject:
        """The body of the answer."""
        response = self.send(request)
        try:
            return cast(KubeObject, decoded(response.read()))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the answer broke off: {error}") from error
        except ValueError as error:
            raise Unreachable(f"the answer is not JSON: {error}") from error

    def send(self, request: Request) -> Any:
        """The answer with status 2xx, its body not read yet."""
        query = [(name, value) for name, value in request.query.items() if value]
        read_seconds = request.read_seconds
        if request.method in WRITE_METHODS:
            seconds = self._write_seconds(request)
            query.append(("timeout", f"{max(1, int(seconds * 1000))}ms"))  # 0 would mean no limit
            read_seconds = seconds + GRACE_SECONDS
        serialized = self.client.param_serialize(
            method=request.method,
            resource_path=request.path,
            query_params=query,
            header_params={"Accept": "application/json", "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        response = self._answer(serialized, (self.connect_seconds, read_seconds))
        self.observe(request.method, response.status)
        if 200 <= response.status < 300:
            return response
        body = b""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            body = response.read()
        raise error_from_response(response.status, body, response.headers)

    def _write_seconds(self, request: Request) -> float:
        """For how long a write may take effect. Raises NotLeader."""
        seconds = min(self.write_seconds_left(), request.read_seconds, MAX_WRITE_SECONDS)
        if seconds <= 0:
            raise NotLeader("not sent: this process may not write any more")
        return seconds

    def _answer(self, serialized: tuple[Any, ...], timeouts: tuple[float, float]) -> Any:
        epoch = self.breaker.begin()
        try:
            response = self.client.call_api(*serialized, _request_timeout=timeouts)
        except urllib3.exceptions.ReadTimeoutError as error:
            # Connected, only slow: this must not open the circuit for others.
            self.observe(serialized[0], 0)
            raise Unreachable(f"no answer in {timeouts[1]:.1f} s") from error
        except TRANSPORT_ERRORS as error:
            self.breaker.failed(epoch)
            self.observe(serialized[0], 0)
            raise Unreachable(f"no answer: {error}") from error
        self.breaker.answered()
        return response
