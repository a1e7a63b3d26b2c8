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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import urllib3

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.connection import TRANSPORT_ERRORS, WRITE_METHODS, ApiClient, WriteSecondsLeft
from taper_operator.kube.errors import NotLeader, Unreachable, error_from_response
from taper_operator.kube.json_decoder import decoded
from taper_operator.kube.resource import KubeObject, Resource

# The API server gives up on any request but a watch after 60 s, so longer than that means it is gone.
READ_SECONDS = 65.0
MAX_WRITE_SECONDS = 60.0
GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """path with placeholders for path_params; read_seconds: how long to wait for the answer"""

    method: str
    path: str
    path_params: Mapping[str, str]
    query: tuple[tuple[str, str], ...] = ()
    body: KubeObject | None = None
    content_type: str = "application/json"
    read_seconds: float = READ_SECONDS


class RequestSender:
    """See the module's docstring. Its methods may be called from any thread; all raise `ApiError`."""

    def __init__(
        self,
        client: ApiClient,
        *,
        breaker: CircuitBreaker,
        write_seconds_left: WriteSecondsLeft,
        observe: Callable[[str, int], None],
        connect_seconds: float,
    ) -> None:
        self._client = client
        self._breaker = breaker
        self._write_seconds_left = write_seconds_left
        self._observe = observe
        self._connect_seconds = connect_seconds

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
        query, read_seconds = request.query, request.read_seconds
        if request.method in WRITE_METHODS:
            seconds = self._write_seconds(request)
            query = (*query, ("timeout", f"{max(1, int(seconds * 1000))}ms"))  # 0 would mean no limit
            read_seconds = seconds + GRACE_SECONDS
        serialized = self._client.param_serialize(
            method=request.method,
            resource_path=request.path,
            path_params=dict(request.path_params),
            query_params=list(query),
            header_params={"Accept": "application/json", "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        response = self._answer(serialized, (self._connect_seconds, read_seconds))
        self._observe(request.method, response.status)
        if 200 <= response.status < 300:
            return response
        raise error_from_response(response.status, _body(response), response.headers)

    def _write_seconds(self, request: Request) -> float:
        """For how long a write may take effect. Raises NotLeader."""
        seconds = min(self._write_seconds_left(), request.read_seconds, MAX_WRITE_SECONDS)
        if seconds <= 0:
            raise NotLeader("not sent: this process may not write any more")
        return seconds

    def _answer(self, serialized: tuple[Any, ...], timeouts: tuple[float, float]) -> Any:
        epoch = self._breaker.begin()
        try:
            response = self._client.call_api(*serialized, _request_timeout=timeouts)
        except urllib3.exceptions.ReadTimeoutError as error:
            # Connected, only slow: this must not open the circuit for others.
            self._observe(serialized[0], 0)
            raise Unreachable(f"no answer in {timeouts[1]:.1f} s") from error
        except TRANSPORT_ERRORS as error:
            self._breaker.failed(epoch)
            self._observe(serialized[0], 0)
            raise Unreachable(f"no answer: {error}") from error
        self._breaker.answered()
        return response


def resource_path(
    resource: Resource, namespace: str = "", name: str = "", subresource: str = ""
) -> tuple[str, dict[str, str]]:
    """A path with placeholders, and the values that the client quotes and inserts."""
    parts = ["/apis/{group}" if resource.group else "/api", "/{version}"]
    parts += ["/namespaces/{namespace}"] if namespace and resource.is_namespaced else []
    parts += ["/{plural}"]
    parts += ["/{name}"] if name else []
    parts += [f"/{subresource}"] if subresource else []
    params = {
        "group": resource.group,
        "version": resource.version,
        "namespace": namespace,
        "plural": resource.plural,
        "name": name,
    }
    return "".join(parts), params


def query_of(**params: str) -> tuple[tuple[str, str], ...]:
    """The parameters that are not empty."""
    return tuple((name, value) for name, value in params.items() if value)


def _body(response: Any) -> bytes:
    try:
        return bytes(response.read())
    except (urllib3.exceptions.HTTPError, OSError):
        return b""
