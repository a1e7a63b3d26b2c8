"""The objects of one kind as the API server last reported them, kept in memory for reading.

Each object is kept as JSON text and parsed when it is read: every reader gets a copy of its own, nobody can
change the cache by accident, and a pod takes some 5 KB instead of 40.

Every change returns the keys to reconcile because of it: those of the object as it is and as it was, so that
its former job is reconciled too.

Deleted objects can be kept for a while in their last state: a pod that is evicted shows the reason for some
milliseconds only, and its job may wait longer than that for a worker.

Invariants (asserted by `tests/operator/kube/test_cache.py`):
- after `replace` a scope holds exactly what was listed, and the keys of each object that was created, changed
  or deleted are returned;
- `of` finds an object if and only if its current state has that key;
- a deleted object is returned by `departed` for its time, and never beside a new object of the same name.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from taper_operator.kube.resource import KubeObject, ObjectKey, key_of

KeysOf = Callable[[KubeObject], Iterable[ObjectKey]]
Skip = Callable[[KubeObject, Exception], None]

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """text: the object as JSON; keys: to reconcile when it changes"""

    resource_version: str
    text: bytes
    keys: frozenset[ObjectKey]


def _raise(obj: KubeObject, error: Exception) -> None:
    raise error


@dataclass(eq=False, kw_only=True)
class ObjectCache:
    """See the module's docstring. Its methods may be called from any thread.

    keys_of: the keys to reconcile when an object changes, by which objects can be looked up
    departed_seconds: how long deleted objects are kept
    clock: monotonic seconds
    """

    keys_of: KeysOf
    departed_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[ObjectKey, _Entry] = {}
        self._index: dict[ObjectKey, set[ObjectKey]] = {}
        # With the time until which each is kept; the first to expire comes first.
        self._departed: dict[ObjectKey, tuple[float, _Entry]] = {}

    # -- reading -----------------------------------------------------------------------

    def num_objects(self) -> int:
        return len(self._entries)

    def get(self, key: ObjectKey) -> KubeObject | None:
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None else _parsed(entry)

    def of(self, reconciled: ObjectKey) -> list[KubeObject]:
        """The objects with that key to reconcile, in the order of their own keys."""
        with self._lock:
            entries = [self._entries[key] for key in sorted(self._index.get(reconciled, ()))]
        return [_parsed(entry) for entry in entries]

    def departed(self, reconciled: ObjectKey) -> list[KubeObject]:
        """The recently deleted objects with that key to reconcile, each in its last state."""
        with self._lock:
            self._forget_departed()
            found = [entry for _, entry in self._departed.values() if reconciled in entry.keys]
        return [_parsed(entry) for entry in found]

    # -- writing, by reflectors --------------------------------------------------------

    def put(self, obj: KubeObject) -> set[ObjectKey]:
        with self._lock:
            # An unreadable object raises here, before anything has changed.
            return self._put(key_of(obj), self._entry(obj))

    def remove(self, key: ObjectKey) -> set[ObjectKey]:
        with self._lock:
            return self._remove(key)

    def replace(
        self, objects: Iterable[KubeObject], *, namespace: str = "", skip: Skip = _raise
    ) -> set[ObjectKey]:
        """Store a complete list of the objects (of the namespace). skip: called with each unreadable one"""
        listed: dict[ObjectKey, _Entry] = {}
        for obj in objects:
            try:
                listed[key_of(obj)] = self._unchanged(obj) or self._entry(obj)
            except Exception as error:
                skip(obj, error)
        with self._lock:
            gone = [key for key in self._entries if namespace in ("", key.namespace) and key not in listed]
            keys_to_reconcile: set[ObjectKey] = set().union(*(self._remove(key) for key in gone))
            for key, entry in listed.items():
                if self._entries.get(key) is not entry:
                    keys_to_reconcile |= self._put(key, entry)
            return keys_to_reconcile

    def _unchanged(self, obj: KubeObject) -> _Entry | None:
        """The entry of an object that is held in its present state."""
        entry = self._entries.get(key_of(obj))
        is_held = entry is not None and entry.resource_version == obj["metadata"]["resourceVersion"]
        return entry if is_held else None

    # -- under the lock ----------------------------------------------------------------

    def _put(self, key: ObjectKey, entry: _Entry) -> set[ObjectKey]:
        keys_to_reconcile = self._remove(key)
        self._departed.pop(key, None)
        self._entries[key] = entry
        for reconciled in entry.keys:
            self._index.setdefault(reconciled, set()).add(key)
        return keys_to_reconcile | entry.keys

    def _remove(self, key: ObjectKey) -> set[ObjectKey]:
        entry = self._entries.pop(key, None)
        if entry is None:
            return set()
        for reconciled in entry.keys:
            found = self._index[reconciled]
            found.discard(key)
            if not found:
                del self._index[reconciled]
        if self.departed_seconds:
            self._forget_departed()
            self._departed[key] = (self.clock() + self.departed_seconds, entry)
        return set(entry.keys)

    def _forget_departed(self) -> None:
        now = self.clock()
        while self._departed:
            key = next(iter(self._departed))
            if self._departed[key][0] > now:
                return
            del self._departed[key]

    def _entry(self, obj: KubeObject) -> _Entry:
        return _Entry(
            resource_version=obj["metadata"]["resourceVersion"],
            text=json.dumps(_trimmed(obj), separators=(",", ":"), ensure_ascii=False).encode(),
            keys=frozenset(self.keys_of(obj)),
        )


def _parsed(entry: _Entry) -> KubeObject:
    obj: KubeObject = json.loads(entry.text)
    return obj


def _trimmed(obj: KubeObject) -> KubeObject:
    """Without the largest fields, which nothing here reads."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    annotations = metadata.get("annotations")
    if annotations:
        metadata["annotations"] = {k: v for k, v in annotations.items() if k != _LAST_APPLIED}
    return obj | {"metadata": metadata}
