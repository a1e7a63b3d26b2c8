"""An API server in memory, behind the REST layer of the client, with a real one's status codes and bodies.

It stands where `ApiClient.rest_client` is, so that all of `api_server.py` is in use. Answers are
shaped after kube-apiserver's: `Status` bodies, 410 as an ERROR event of a watch, bookmarks,
pages with `continue`, a plain "404 page not found" for paths that nobody serves.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kubernetes.client import ApiClient, Configuration
from kubernetes.client.rest import RESTResponse

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.client import ApiServer
from taper_operator.kube.resource import EVENTS, LEASES, KubeObject, ObjectKey, Resource, key_of

from .clock import Clock

JOBS = Resource(group="taper.dev", version="v1alpha1", plural="rlhfjobs", kind="RLHFJob")
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
Fault = Callable[[str, str], None]


class FakeHttpResponse:
    """What urllib3 gives: a body at once, or the chunks of a watch as they come."""

    def __init__(
        self, status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None,
        chunks: Iterator[bytes] | None = None,
    ) -> None:  # fmt: skip
        self.status = status
        self.reason = ""
        self.headers = dict(headers or {"Content-Type": "application/json"})
        self.data = body
        self.is_closed = False
        self._chunks = chunks or iter(())
        self.on_end: Callable[[], None] = lambda: None

    def read1(self, amount: int) -> bytes:
        return next(self._chunks, b"")

    def shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True
        self.on_end()


class FakeApiServer:
    """See the module's docstring.

    is_live: a watch waits for events; else it ends after those that there are
    fault: called with method and path before a request is done, and with "after METHOD" once it is
    """

    def __init__(self, *resources: Resource, is_live: bool = False, page: int = 500) -> None:
        self.resources = {self._root(r): r for r in (*resources, LEASES, EVENTS)}
        self.objects: dict[tuple[Resource, ObjectKey], KubeObject] = {}
        self.history: list[tuple[int, str, Resource, KubeObject]] = []
        self.applied: dict[tuple[Resource, ObjectKey, str, str], KubeObject] = {}  # by manager, subresource
        self.version = 1000
        self.oldest = 1000
        self.is_live = is_live
        self.page = page
        self.fault: Fault = lambda method, path: None
        self.garble: Callable[[list[bytes]], list[bytes]] = lambda lines: lines
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.changed = threading.Condition()

    # -- for tests ---------------------------------------------------------------------

    def put(self, resource: Resource, obj: KubeObject) -> KubeObject:
        """Create or change an object, as some other client."""
        with self.changed:
            key = key_of(obj)
            old = self.objects.get((resource, key))
            new = copy.deepcopy(obj)
            self.version += 1
            uid = old["metadata"]["uid"] if old else str(uuid.uuid4())
            new["metadata"] |= {"uid": uid, "resourceVersion": str(self.version)}
            self.objects[resource, key] = new
            self._happened("MODIFIED" if old else "ADDED", resource, new)
            return copy.deepcopy(new)

    def remove(self, resource: Resource, key: ObjectKey) -> None:
        """Delete an object, as some other client."""
        with self.changed:
            old = copy.deepcopy(self.objects.pop((resource, key)))
            self.applied = {each: obj for each, obj in self.applied.items() if each[:2] != (resource, key)}
            self.version += 1
            old["metadata"]["resourceVersion"] = str(self.version)
            self._happened("DELETED", resource, old)

    def compact(self) -> None:
        """Forget what happened: resourceVersions of before are too old now."""
        with self.changed:
            self.oldest = self.version
            # As etcd, it keeps what is there: lists that have begun since go on after a later change.
            self.history = sorted(
                (
                    (int(obj["metadata"]["resourceVersion"]), "ADDED", kind, copy.deepcopy(obj))
                    for (kind, _), obj in self.objects.items()
                ),
                key=lambda event: event[0],
            )

    def all(self, resource: Resource, namespace: str = "") -> dict[ObjectKey, KubeObject]:
        return {
            key: obj
            for (kind, key), obj in self.objects.items()
            if kind == resource and namespace in ("", key.namespace)
        }

    def verbs(self, plural: str = "") -> list[str]:
        """Methods of the requests for a kind, in order."""
        return [method for method, path, _, _ in self.requests if f"/{plural}" in path]

    def client(self) -> ApiClient:
        client = ApiClient(Configuration(host="https://api.test"))
        client.rest_client = self
        return client

    def api_server(self, clock: Callable[[], float] | None = None, **options: Any) -> ApiServer:
        clock = clock or Clock()
        options = {
            "breaker": CircuitBreaker(clock=clock, random=Random(1)),
            "field_manager": "test",
        } | options
        return ApiServer(self.client(), clock=clock, **options)

    # -- the REST layer ----------------------------------------------------------------

    def request(
        self, method: str, url: str, *, headers: Any = None, body: Any = None, post_params: Any = None,
        _request_timeout: Any = None,
    ) -> RESTResponse:  # fmt: skip
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append((method, parts.path, query, copy.deepcopy(body)))
        self.fault(method, parts.path)
        with self.changed:
            response = self._handle(method, parts.path, query, copy.deepcopy(body))
        self.fault(f"after {method}", parts.path)
        return RESTResponse(response)

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> FakeHttpResponse:
        found = self._find(path)
        if found is None:
            return FakeHttpResponse(404, b"404 page not found\n", headers={"Content-Type": "text/plain"})
        resource, namespace, name, subresource = found
        key = ObjectKey(namespace, name)
        if method == "GET" and not name:
            if query.get("watch") == "true":
                return self._watch(resource, namespace, query)
            return self._list(resource, namespace, query)
        if method == "POST":
            key = ObjectKey(namespace, body["metadata"]["name"])
            if (resource, key) in self.objects:
                return _status(409, "AlreadyExists", f'{resource} "{key.name}" already exists', resource, key)
            return _json(201, self.put(resource, body))
        old = self.objects.get((resource, key))
        if method == "PATCH":
            return self._apply(resource, old, key, body, subresource, query["fieldManager"])
        if old is None:
            return _status(404, "NotFound", f'{resource} "{name}" not found', resource, key)
        if method == "GET":
            return _json(200, old)
        if method == "PUT":
            return self._replace(resource, old, body, subresource)
        assert method == "DELETE"
        return self._delete(resource, old, body)

    def _list(self, resource: Resource, namespace: str, query: dict[str, str]) -> FakeHttpResponse:
        version, start = self.version, 0
        if "continue" in query:
            version, start = (int(part) for part in query["continue"].split(":"))
            if version < self.oldest:
                text = "The provided continue parameter is too old to display a consistent list result."
                return _status(410, "Expired", text)
        items = self._as_of(resource, namespace, version)
        items = [item for item in items if _selected(item, query.get("labelSelector", ""))]
        limit = min(int(query.get("limit", 10**9)), self.page)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if start + limit < len(items):
            metadata["continue"] = f"{version}:{start + limit}"
        page = [{k: v for k, v in i.items() if k not in _KIND} for i in items[start : start + limit]]
        reported = {"apiVersion": resource.api_version, "kind": f"{resource.kind}List", "metadata": metadata}
        return _json(200, reported | {"items": page})

    def _as_of(self, resource: Resource, namespace: str, version: int) -> list[KubeObject]:
        """The objects as they were: the present ones with what happened since undone."""
        now = self.all(resource, namespace)
        for at, _, kind, obj in reversed(self.history):
            if at > version and kind == resource and namespace in ("", key_of(obj).namespace):
                before = self._before(resource, key_of(obj), at)
                if before is None:
                    now.pop(key_of(obj), None)
                else:
                    now[key_of(obj)] = before
        return [now[key] for key in sorted(now)]

    def _before(self, resource: Resource, key: ObjectKey, version: int) -> KubeObject | None:
        earlier = [
            (type_, obj)
            for at, type_, kind, obj in self.history
            if at < version and kind == resource and key_of(obj) == key
        ]
        return earlier[-1][1] if earlier and earlier[-1][0] != "DELETED" else None

    def _watch(self, resource: Resource, namespace: str, query: dict[str, str]) -> FakeHttpResponse:
        since = int(query["resourceVersion"])
        if since < self.oldest:
            text = f"too old resource version: {since} ({self.oldest})"
            reported = json.loads(_status(410, "Expired", text).data)
            return FakeHttpResponse(200, chunks=iter([_line("ERROR", reported)]))
        selector = query.get("labelSelector", "")
        response = FakeHttpResponse(200)
        # Once begun, a watch loses nothing to a compaction.
        first = self._events(resource, namespace, since, selector)
        response._chunks = self._stream(response, resource, namespace, first, selector)
        response.on_end = self._wake
        return response

    def _stream(
        self, response: FakeHttpResponse, resource: Resource, namespace: str,
        events: tuple[int, list[bytes]], selector: str,
    ) -> Iterator[bytes]:  # fmt: skip
        while True:
            since, lines = events
            bookmark = {"metadata": {"resourceVersion": str(since)}} | _kind(resource)
            yield from self.garble([*lines, _line("BOOKMARK", bookmark)])
            with self.changed:
                while self.is_live and not response.is_closed and self.version <= since:
                    self.changed.wait(5)
                if response.is_closed or not self.is_live:
                    return
                events = self._events(resource, namespace, since, selector)

    def _events(
        self, resource: Resource, namespace: str, since: int, selector: str
    ) -> tuple[int, list[bytes]]:
        lines = [
            _line(type_, obj)
            for at, type_, kind, obj in self.history
            if at > since and kind == resource and namespace in ("", key_of(obj).namespace)
            and _selected(obj, selector)
        ]  # fmt: skip
        return self.version, lines

    def _apply(
        self, resource: Resource, old: KubeObject | None, key: ObjectKey, body: KubeObject, subresource: str,
        manager: str,
    ) -> FakeHttpResponse:  # fmt: skip
        reported = body["metadata"].pop("resourceVersion", None)
        if old is None and subresource:
            return _status(404, "NotFound", f'{resource} "{key.name}" not found', resource, key)
        if old and reported not in (None, old["metadata"]["resourceVersion"]):
            return _modified(resource, key)
        new = copy.deepcopy(old or {})
        wanted = {"status": body.get("status")} if subresource == "status" else body
        owner = (resource, key, manager, subresource)
        _take_back(new, self.applied.get(owner, {}), wanted)
        _merge(new, wanted)
        self.applied[owner] = wanted
        return _json(200 if old else 201, old if new == old else self.put(resource, new))

    def _replace(
        self, resource: Resource, old: KubeObject, body: KubeObject, subresource: str
    ) -> FakeHttpResponse:
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            return _modified(resource, key_of(old))
        new = old | {"status": body.get("status")} if subresource == "status" else body
        return _json(200, old if new == old else self.put(resource, new))

    def _delete(self, resource: Resource, old: KubeObject, options: KubeObject) -> FakeHttpResponse:
        key = key_of(old)
        for field, wanted in (options.get("preconditions") or {}).items():
            if old["metadata"][field] != wanted:
                text = f"Precondition failed: {field} in precondition: {wanted}, in object meta: "
                return _status(409, "Conflict", text + old["metadata"][field], resource, key)
        self.remove(resource, key)
        return _json(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _find(self, path: str) -> tuple[Resource, str, str, str] | None:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        head = parts[:2] if parts[0] == "api" else parts[:3]
        rest = parts[len(head) :]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = self.resources.get("/".join([*head, rest[0]]))
        name, subresource = (*rest[1:], "", "")[:2]
        return None if resource is None else (resource, namespace, name, subresource)

    def _happened(self, type_: str, resource: Resource, obj: KubeObject) -> None:
        self.history.append((self.version, type_, resource, copy.deepcopy(obj)))
        self.changed.notify_all()

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    @staticmethod
    def _root(resource: Resource) -> str:
        return f"{'apis' if resource.group else 'api'}/{resource.api_version}/{resource.plural}"


_KIND = ("apiVersion", "kind")


def make_object(resource: Resource, name: str, namespace: str = "team", **fields: Any) -> KubeObject:
    """An object; `labels` and `owners` (uids) go to its metadata."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if "labels" in fields:
        metadata["labels"] = fields.pop("labels")
    if "owners" in fields:
        metadata["ownerReferences"] = [{"uid": uid} for uid in fields.pop("owners")]
    return _kind(resource) | {"metadata": metadata} | fields


def status_body(code: int, reason: str, message: str, details: Any = None) -> dict[str, Any]:
    """A `Status` as in the body of an error."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return status | {"reason": reason, "code": code} | ({"details": details} if details else {})


def _kind(resource: Resource) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


def _json(status: int, obj: Any) -> FakeHttpResponse:
    return FakeHttpResponse(status, json.dumps(obj).encode())


def _status(
    code: int, reason: str, message: str, resource: Resource | None = None, key: ObjectKey | None = None
) -> FakeHttpResponse:
    details = None
    if resource is not None and key is not None:
        details = {"name": key.name, "group": resource.group, "kind": resource.plural}
    return _json(code, status_body(code, reason, message, details))


def _modified(resource: Resource, key: ObjectKey) -> FakeHttpResponse:
    text = (
        f'Operation cannot be fulfilled on {resource} "{key.name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return _status(409, "Conflict", text, resource, key)


def _line(type_: str, obj: Any) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"


def _selected(obj: KubeObject, selector: str) -> bool:
    labels = obj["metadata"].get("labels", {})
    terms = (term.partition("=") for term in selector.split(",") if term)
    return all(labels.get(key) == value if equals else key in labels for key, equals, value in terms)


def _merge(into: dict[str, Any], what: Mapping[str, Any]) -> None:
    for name, value in what.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = copy.deepcopy(value)


def _take_back(from_: dict[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What a manager has applied and does no more is gone. Here no two own the same field."""
    for name, value in before.items():
        if name not in now:
            from_.pop(name, None)
        elif isinstance(value, dict) and isinstance(now[name], dict) and isinstance(from_.get(name), dict):
            _take_back(from_[name], value, now[name])
