"""The one file that talks to the API server, over the REST layer of the official client.

Objects go in and come out as JSON's types. Nothing is retried here: who calls knows when to
try again. What a write needs to be safe is here:

- a writer that must lead asks `write_seconds_left` before each write, and once more when the connection
  stands, right before the first byte: connecting may have taken long, or the process been stopped;
- the API server is told to give a write up after that time (the query parameter `timeout`),
  and the client waits a little longer than that: an answer that did not come is no write to come.

Read in kubernetes 37.0.1: `ApiClient.param_serialize` and `call_api`, `RESTResponse.response`,
`RESTClientObject.pool_manager`.

Invariants (asserted by `tests/operator/kube/test_client.py`):
- every failure is an `ApiError`;
- no redirect is followed and nothing is tried twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.errors import NotLeader, Unreachable, error_from_response
from taper_operator.kube.json_decoder import decoded
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch
from taper_operator.settings.settings import SettingsError

WriteSecondsLeft = Callable[[], float]
Propagation = Literal["Background", "Foreground", "Orphan"]

CONNECT_SECONDS = 5.0
WATCH_SECONDS = 270
# A watch is silent between two bookmarks, and ended by the API server: the client waits for that.
WATCH_READ_SECONDS = 300.0
# The API server gives up on any other request after 60 s, so longer than that means it is gone.
READ_SECONDS = 65.0
_MAX_WRITE_SECONDS = 60.0
_GRACE_SECONDS = 1.0
_PAGE_OBJECTS = 500
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectList:
    """What a list found, and as of when."""

    items: list[KubeObject]
    resource_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """path with placeholders for path_params; read_seconds: how long to wait for the answer"""

    method: str
    path: str
    path_params: Mapping[str, str]
    query: tuple[tuple[str, str], ...] = ()
    body: KubeObject | None = None
    content_type: str = "application/json"
    read_seconds: float = READ_SECONDS


class ApiServer:
    """See the module's docstring. Its methods may be called from any thread; all raise `ApiError`.

    field_manager: the owner of the fields that are written
    write_seconds_left: for how long a write may take effect, 0 or less for not at all
    observe: told method, HTTP status (0 without an answer) of each request
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        breaker: CircuitBreaker,
        clock: Callable[[], float],
        field_manager: str,
        write_seconds_left: WriteSecondsLeft = lambda: _MAX_WRITE_SECONDS,
        observe: Callable[[str, int], None] = lambda method, status: None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._client = client
        self._breaker = breaker
        self._clock = clock
        self._field_manager = field_manager
        self._write_seconds_left = write_seconds_left
        self._observe = observe
        self._connect_seconds = connect_seconds

    # -- reading -----------------------------------------------------------------------

    def get(self, resource: Resource, key: ObjectKey, *, read_seconds: float = READ_SECONDS) -> KubeObject:
        """One object. Raises NotFound."""
        path, params = _path(resource, key.namespace, key.name)
        return self._json(_Request(method="GET", path=path, path_params=params, read_seconds=read_seconds))

    def list(self, resource: Resource, *, namespace: str = "", label_selector: str = "") -> ObjectList:
        """All objects, of all namespaces if none is given, as they are now, never older.

        Raises Gone where the list was too long under way and must begin anew.
        """
        items: list[KubeObject] = []
        token = ""
        while True:
            page = self._page(resource, namespace, label_selector, token)
            items += page.get("items") or ()
            token = page["metadata"].get("continue", "")
            if not token:
                # The items of a list of built-in kinds do not tell their kind.
                kind_fields = {"apiVersion": resource.api_version, "kind": resource.kind}
                items = [kind_fields | item for item in items]
                return ObjectList(items=items, resource_version=page["metadata"]["resourceVersion"])

    def _page(self, resource: Resource, namespace: str, label_selector: str, token: str) -> KubeObject:
        path, params = _path(resource, namespace)
        query = _given(limit=str(_PAGE_OBJECTS), labelSelector=label_selector) + _given(**{"continue": token})
        return self._json(_Request(method="GET", path=path, path_params=params, query=query))

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        timeout_seconds: int = WATCH_SECONDS,
    ) -> Watch:
        """What happens after a resourceVersion. Close it. Raises Gone, here or while iterating."""
        path, params = _path(resource, namespace)
        query = _given(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            allowWatchBookmarks="true",
            timeoutSeconds=str(timeout_seconds),
        )
        request = _Request(
            method="GET", path=path, path_params=params, query=query, read_seconds=WATCH_READ_SECONDS
        )
        ends_at = self._clock() + timeout_seconds

        def broke() -> None:
            if self._clock() < ends_at - _GRACE_SECONDS:
                self._breaker.suspect()

        return Watch(self._send(request).response, broke=broke)

    # -- writing -----------------------------------------------------------------------

    def create(
        self,
        resource: Resource,
        obj: KubeObject,
        *,
        dry_run: bool = False,
        read_seconds: float = READ_SECONDS,
    ) -> KubeObject:
        """Make an object. Raises AlreadyExists, Invalid, Forbidden, NotFound for its namespace."""
        return self._whole("POST", _path(resource, key_of(obj).namespace), obj, read_seconds, dry_run=dry_run)

    def apply(
        self,
        resource: Resource,
        obj: KubeObject,
        *,
        subresource: str = "",
        field_manager: str = "",
        force: bool = True,
        dry_run: bool = False,
    ) -> KubeObject:
        """Server-side apply: exactly the given fields become the manager's. Makes an object that is missing.

        With a uid or resourceVersion in its metadata it changes that object, or that state of it, only.
        Raises Conflict for a stale one, or for another manager's field unless forced.
        """
        key = key_of(obj)
        path, params = _path(resource, key.namespace, key.name, subresource)
        query = self._write_query(field_manager=field_manager, dry_run=dry_run)
        request = _Request(
            method="PATCH",
            path=path,
            path_params=params,
            query=(*query, ("force", str(force).lower())),
            body={"apiVersion": resource.api_version, "kind": resource.kind} | obj,
            content_type="application/apply-patch+yaml",
        )
        return self._json(request)

    def apply_status(self, resource: Resource, obj: KubeObject, *, field_manager: str = "") -> KubeObject:
        """Server-side apply of `status`, which leaves the fields of other managers alone."""
        return self.apply(resource, obj, subresource="status", field_manager=field_manager)

    def replace(
        self,
        resource: Resource,
        obj: KubeObject,
        *,
        subresource: str = "",
        read_seconds: float = READ_SECONDS,
    ) -> KubeObject:
        """Write a whole object (or its status) as read before. Raises Conflict if it has changed since."""
        assert obj["metadata"].get("resourceVersion"), "a blind write could undo another's"
        key = key_of(obj)
        return self._whole("PUT", _path(resource, key.namespace, key.name, subresource), obj, read_seconds)

    def replace_status(self, resource: Resource, obj: KubeObject) -> KubeObject:
        """Write the whole status of an object read before. Raises Conflict if it has changed since."""
        return self.replace(resource, obj, subresource="status")

    def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str,
        resource_version: str = "",
        propagation: Propagation = "Background",
        grace_period_seconds: int | None = None,
    ) -> None:
        """Delete that very object. Raises NotFound, Conflict if another has its name or it has changed."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        options: KubeObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": propagation,
        }
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        path, params = _path(resource, key.namespace, key.name)
        self._json(_Request(method="DELETE", path=path, path_params=params, body=options))

    def review(
        self, resource: Resource, obj: KubeObject, *, read_seconds: float = READ_SECONDS
    ) -> KubeObject:
        """Ask by a POST that leaves nothing behind, such as a TokenReview; the answer is in its status."""
        return self._whole("POST", _path(resource), obj, read_seconds)

    def _whole(
        self,
        method: str,
        place: tuple[str, dict[str, str]],
        obj: KubeObject,
        read_seconds: float,
        *,
        dry_run: bool = False,
    ) -> KubeObject:
        """Send an object as a whole."""
        path, params = place
        query = self._write_query(dry_run=dry_run)
        request = _Request(
            method=method, path=path, path_params=params, query=query, body=obj, read_seconds=read_seconds
        )
        return self._json(request)

    def _write_query(self, *, field_manager: str = "", dry_run: bool = False) -> tuple[tuple[str, str], ...]:
        return _given(
            fieldManager=field_manager or self._field_manager,
            fieldValidation="Strict",
            dryRun="All" if dry_run else "",
        )

    # -- sending -----------------------------------------------------------------------

    def _json(self, request: _Request) -> KubeObject:
        response = self._send(request)
        try:
            return cast(KubeObject, decoded(response.read()))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the answer broke off: {error}") from error
        except ValueError as error:
            raise Unreachable(f"the answer is not JSON: {error}") from error

    def _send(self, request: _Request) -> Any:
        """The answer, its body not read yet. Raises what an answer that is no 2xx means."""
        query, read_seconds = list(request.query), request.read_seconds
        if request.method in _WRITES:
            seconds = min(self._write_seconds_left(), read_seconds, _MAX_WRITE_SECONDS)
            if seconds <= 0:
                raise NotLeader("not sent: this process may not write any more")
            query.append(("timeout", f"{max(1, int(seconds * 1000))}ms"))  # 0 would mean no limit
            read_seconds = seconds + _GRACE_SECONDS
        serialized = self._client.param_serialize(
            method=request.method,
            resource_path=request.path,
            path_params=dict(request.path_params),
            query_params=query,
            header_params={"Accept": "application/json", "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        response = self._answer(serialized, (self._connect_seconds, read_seconds))
        self._observe(request.method, response.status)
        if 200 <= response.status < 300:
            return response
        raise error_from_response(response.status, _body(response), response.headers)

    def _answer(self, serialized: tuple[Any, ...], timeouts: tuple[float, float]) -> Any:
        epoch = self._breaker.begin()
        try:
            response = self._client.call_api(*serialized, _request_timeout=timeouts)
        except urllib3.exceptions.ReadTimeoutError as error:
            # It is connected, only slow: that does not keep others from trying.
            self._observe(serialized[0], 0)
            raise Unreachable(f"no answer in {timeouts[1]:.1f} s") from error
        except (urllib3.exceptions.HTTPError, OSError, ApiException) as error:
            self._breaker.failed(epoch)
            self._observe(serialized[0], 0)
            raise Unreachable(f"no answer: {error}") from error
        self._breaker.answered()
        return response


def connect(kubeconfig: str = "") -> ApiClient:
    """A client for the cluster of a kubeconfig, or for the one that this pod runs in.

    Raises SettingsError. Nothing is asked of the API server yet.
    """
    configuration = Configuration()
    try:
        if kubeconfig:
            load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise SettingsError([f"--kubeconfig: {error}"]) from error
    # urllib3 would try three times at once, and follow redirects with the token.
    configuration.retries = False
    # Finds out that the other end of a silent watch is gone. Each watch and each worker keeps a connection.
    configuration.keep_alive = True
    configuration.connection_pool_maxsize = 256
    client = ApiClient(configuration)
    client.user_agent = "taper-operator"
    return client


def fence_connections(client: ApiClient, write_seconds_left: WriteSecondsLeft) -> None:
    """Ask before the first byte of each write whether it may still be sent; it then raises NotLeader."""

    def check(method: str) -> None:
        if method in _WRITES and write_seconds_left() <= 0:
            raise NotLeader("not sent: this process may not write any more")

    class HttpConnection(urllib3.connection.HTTPConnection):
        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            check(method)
            super().request(method, url, *args, **kwargs)

    class HttpsConnection(urllib3.connection.HTTPSConnection):
        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            check(method)
            super().request(method, url, *args, **kwargs)

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    client.rest_client.pool_manager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}


def _path(
    resource: Resource, namespace: str = "", name: str = "", subresource: str = ""
) -> tuple[str, dict[str, str]]:
    """A path with placeholders, and what the client is to put there, quoted."""
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


def _given(**params: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in params.items() if value)


def _body(response: Any) -> bytes:
    try:
        return bytes(response.read())
    except (urllib3.exceptions.HTTPError, OSError):
        return b""
