"""The API server's verbs, typed: get, list, watch, create, apply, replace, delete.

Objects are passed and returned as JSON's types. `request.py` says how a request is sent, and why a write
is safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from taper_operator.kube.request import GRACE_SECONDS, READ_SECONDS, Request, RequestSender
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch

WATCH_SECONDS = 270
# A watch is silent between two bookmarks, and ended by the API server: the client waits for that.
WATCH_READ_SECONDS = 300.0
_PAGE_OBJECTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectList:
    """What a list found, and as of when."""

    items: list[KubeObject]
    resource_version: str


@dataclass(eq=False, kw_only=True)
class ApiServer(RequestSender):
    """See the module's docstring.

    clock: monotonic seconds
    field_manager: the owner of the fields that are written
    """

    clock: Callable[[], float] = time.monotonic
    field_manager: str

    # -- reading -----------------------------------------------------------------------

    def get(self, resource: Resource, key: ObjectKey, *, read_seconds: float = READ_SECONDS) -> KubeObject:
        """One object. Raises NotFound."""
        return self.json(Request("GET", resource.path(*key), read_seconds=read_seconds))

    def list(self, resource: Resource, *, namespace: str = "", label_selector: str = "") -> ObjectList:
        """All objects, of all namespaces if none is given, as they are now, never older.

        Raises Gone where the list took too long: list again.
        """
        items: list[KubeObject] = []
        token = ""
        while True:
            query = {"limit": str(_PAGE_OBJECTS), "labelSelector": label_selector, "continue": token}
            page = self.json(Request("GET", resource.path(namespace), query=query))
            items += page.get("items") or ()
            token = page["metadata"].get("continue", "")
            if not token:
                # The items of a list of built-in kinds lack their kind.
                kind_fields = {"apiVersion": resource.api_version, "kind": resource.kind}
                items = [kind_fields | item for item in items]
                return ObjectList(items=items, resource_version=page["metadata"]["resourceVersion"])

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
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
        }
        request = Request("GET", resource.path(namespace), query=query, read_seconds=WATCH_READ_SECONDS)
        ends_at = self.clock() + timeout_seconds

        def broke() -> None:
            if self.clock() < ends_at - GRACE_SECONDS:
                self.breaker.suspect()

        return Watch(self.send(request).response, broke=broke)

    # -- writing -----------------------------------------------------------------------

    def create(
        self, resource: Resource, obj: KubeObject, *, read_seconds: float = READ_SECONDS
    ) -> KubeObject:
        """Create an object. Raises AlreadyExists, Invalid, Forbidden, NotFound for its namespace.

        A TokenReview is created too, but nothing is kept: the answer is in the status of what is returned.
        """
        path, query = resource.path(obj["metadata"].get("namespace", "")), self._write_query()
        return self.json(Request("POST", path, query=query, body=obj, read_seconds=read_seconds))

    def apply(
        self, resource: Resource, obj: KubeObject, *, subresource: str = "", field_manager: str = ""
    ) -> KubeObject:
        """Server-side apply: exactly the given fields become the manager's. Creates a missing object.

        With a uid or resourceVersion in its metadata it changes that object, or that state of it, only.
        It takes over fields of other managers. Raises Conflict for a stale uid or resourceVersion.
        """
        query = self._write_query(field_manager) | {"force": "true"}
        request = Request(
            "PATCH",
            resource.path(*key_of(obj), subresource),
            query=query,
            body={"apiVersion": resource.api_version, "kind": resource.kind} | obj,
            content_type="application/apply-patch+yaml",
        )
        return self.json(request)

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
        path = resource.path(*key_of(obj), subresource)
        query = self._write_query()
        return self.json(Request("PUT", path, query=query, body=obj, read_seconds=read_seconds))

    def delete(self, resource: Resource, key: ObjectKey, *, uid: str) -> None:
        """Delete that very object, and what it owns. Raises NotFound, Conflict if another has its name."""
        options: KubeObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        self.json(Request("DELETE", resource.path(*key), body=options))

    def _write_query(self, field_manager: str = "") -> dict[str, str]:
        return {"fieldManager": field_manager or self.field_manager, "fieldValidation": "Strict"}
