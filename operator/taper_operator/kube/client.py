"""The API server's verbs, typed: get, list, watch, create, apply, replace, delete, review.

Objects are passed and returned as JSON's types. `request.py` says how a request is sent, and why a write
is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.connection import ApiClient, WriteSecondsLeft
from taper_operator.kube.request import (
    GRACE_SECONDS,
    MAX_WRITE_SECONDS,
    READ_SECONDS,
    Request,
    RequestSender,
    query_of,
    resource_path,
)
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch

CONNECT_SECONDS = 5.0
WATCH_SECONDS = 270
# A watch is silent between two bookmarks, and ended by the API server: the client waits for that.
WATCH_READ_SECONDS = 300.0
_PAGE_OBJECTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectList:
    """What a list found, and as of when."""

    items: list[KubeObject]
    resource_version: str


class ApiServer:
    """See the module's docstring. Its methods may be called from any thread; all raise `ApiError`.

    field_manager: the owner of the fields that are written
    write_seconds_left: for how long a write may take effect, 0 or less for not at all
    observe: called with method and HTTP status (0 without an answer) of each request
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        breaker: CircuitBreaker,
        clock: Callable[[], float],
        field_manager: str,
        write_seconds_left: WriteSecondsLeft = lambda: MAX_WRITE_SECONDS,
        observe: Callable[[str, int], None] = lambda method, status: None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._breaker = breaker
        self._clock = clock
        self._field_manager = field_manager
        self._sender = RequestSender(
            client,
            breaker=breaker,
            write_seconds_left=write_seconds_left,
            observe=observe,
            connect_seconds=connect_seconds,
        )

    # -- reading -----------------------------------------------------------------------

    def get(self, resource: Resource, key: ObjectKey, *, read_seconds: float = READ_SECONDS) -> KubeObject:
        """One object. Raises NotFound."""
        path, params = resource_path(resource, key.namespace, key.name)
        return self._sender.json(
            Request(method="GET", path=path, path_params=params, read_seconds=read_seconds)
        )

    def list(self, resource: Resource, *, namespace: str = "", label_selector: str = "") -> ObjectList:
        """All objects, of all namespaces if none is given, as they are now, never older.

        Raises Gone where the list took too long: list again.
        """
        items: list[KubeObject] = []
        token = ""
        while True:
            page = self._page(resource, namespace, label_selector, token)
            items += page.get("items") or ()
            token = page["metadata"].get("continue", "")
            if not token:
                # The items of a list of built-in kinds lack their kind.
                kind_fields = {"apiVersion": resource.api_version, "kind": resource.kind}
                items = [kind_fields | item for item in items]
                return ObjectList(items=items, resource_version=page["metadata"]["resourceVersion"])

    def _page(self, resource: Resource, namespace: str, label_selector: str, token: str) -> KubeObject:
        path, params = resource_path(resource, namespace)
        query = query_of(limit=str(_PAGE_OBJECTS), labelSelector=label_selector) + query_of(
            **{"continue": token}
        )
        return self._sender.json(Request(method="GET", path=path, path_params=params, query=query))

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        timeout_seconds: int = WATCH_SECONDS,
    ) -> Watch:
        """The events after a resourceVersion. Close it. Raises Gone, here or while iterating."""
        path, params = resource_path(resource, namespace)
        query = query_of(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            allowWatchBookmarks="true",
            timeoutSeconds=str(timeout_seconds),
        )
        request = Request(
            method="GET", path=path, path_params=params, query=query, read_seconds=WATCH_READ_SECONDS
        )
        ends_at = self._clock() + timeout_seconds

        def broke() -> None:
            if self._clock() < ends_at - GRACE_SECONDS:
                self._breaker.suspect()

        return Watch(self._sender.send(request).response, broke=broke)

    # -- writing -----------------------------------------------------------------------

    def create(
        self,
        resource: Resource,
        obj: KubeObject,
        *,
        dry_run: bool = False,
        read_seconds: float = READ_SECONDS,
    ) -> KubeObject:
        """Create an object. Raises AlreadyExists, Invalid, Forbidden, NotFound for its namespace."""
        return self._whole(
            "POST", resource_path(resource, key_of(obj).namespace), obj, read_seconds, dry_run=dry_run
        )

    def apply(
        self,
        resource: Resource,
        obj: KubeObject,
        *,
        subresource: str = "",
        field_manager: str = "",
        dry_run: bool = False,
    ) -> KubeObject:
        """Server-side apply: exactly the given fields become the manager's. Creates a missing object.

        With a uid or resourceVersion in its metadata it changes that object, or that state of it, only.
        It takes over fields of other managers. Raises Conflict for a stale uid or resourceVersion.
        """
        key = key_of(obj)
        path, params = resource_path(resource, key.namespace, key.name, subresource)
        query = self._write_query(field_manager=field_manager, dry_run=dry_run)
        request = Request(
            method="PATCH",
            path=path,
            path_params=params,
            query=(*query, ("force", "true")),
            body={"apiVersion": resource.api_version, "kind": resource.kind} | obj,
            content_type="application/apply-patch+yaml",
        )
        return self._sender.json(request)

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
        return self._whole(
            "PUT", resource_path(resource, key.namespace, key.name, subresource), obj, read_seconds
        )

    def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str,
    ) -> None:
        """Delete that very object, and what it owns. Raises NotFound, Conflict if another has its name."""
        options: KubeObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        path, params = resource_path(resource, key.namespace, key.name)
        self._sender.json(Request(method="DELETE", path=path, path_params=params, body=options))

    def review(
        self, resource: Resource, obj: KubeObject, *, read_seconds: float = READ_SECONDS
    ) -> KubeObject:
        """Ask by a POST that leaves nothing behind, such as a TokenReview; the answer is in its status."""
        return self._whole("POST", resource_path(resource), obj, read_seconds)

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
        request = Request(
            method=method, path=path, path_params=params, query=query, body=obj, read_seconds=read_seconds
        )
        return self._sender.json(request)

    def _write_query(self, *, field_manager: str = "", dry_run: bool = False) -> tuple[tuple[str, str], ...]:
        return query_of(
            fieldManager=field_manager or self._field_manager,
            fieldValidation="Strict",
            dryRun="All" if dry_run else "",
        )
