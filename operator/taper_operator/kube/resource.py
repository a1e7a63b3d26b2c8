"""Kinds of objects that the API server serves, and the keys of objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

# An object as the API server returns it, in JSON's types.
KubeObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of object. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of these objects, or of one of them."""
        root = ("apis", self.group) if self.group else ("api",)
        scope = ("namespaces", namespace) if namespace and self.is_namespaced else ()
        parts = (*root, self.version, *scope, self.plural, name, subresource)
        return "".join(f"/{quote(part, safe='')}" for part in parts if part)

    def manifest(self, metadata: KubeObject, **content: Any) -> KubeObject:
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata} | content

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class ObjectKey(NamedTuple):
    """Namespace (empty where the kind has none) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: KubeObject) -> ObjectKey:
    """The key of an object."""
    metadata = obj["metadata"]
    return ObjectKey(metadata.get("namespace", ""), metadata["name"])


def with_status(obj: KubeObject, status: KubeObject) -> KubeObject:
    """A status for an object as it was read: the resourceVersion rejects one that has changed."""
    metadata = {name: obj["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    return {"metadata": metadata, "status": status}


def own_key(obj: KubeObject) -> Iterator[ObjectKey]:
    """The keys to reconcile when an object of the reconciled kind itself changes."""
    yield key_of(obj)


EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
