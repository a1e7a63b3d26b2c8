"""Keeps a cache equal to the objects of one kind: list once, then watch; list again if that breaks.

Strategy: a list gives the objects and a resourceVersion; the watch from there delivers every change and, in
bookmarks, its progress. A watch that ended resumes where it was. A resourceVersion that the API server no
longer knows (410), or one that goes back in a bookmark (etcd was restored), requires a new list; its
differences to the cache are delivered like any change, missed deletions included. ResourceVersions are
compared as integers (Kubernetes' API contract since 1.35), so a repeated event is handled once.

A list asks for the latest state, never for a cached one: the cache would go back in time.

An unreadable object, for whatever reason, is skipped, so that it never blocks another: the cache does not
hold it, its key is delivered, and `warn` is called with it.

Invariants (asserted by `tests/operator/kube/test_reflector*.py`):
- whatever is lost, interrupted, answered with 410 or repeated, the cache becomes the API server's state once
  the API server answers, and after that every key whose object was created, changed or deleted is delivered;
- an object in the cache never goes back to an older version (unless the API server did);
- failures in a row are at most ten a minute; a watch that breaks after a long life resumes at once;
- `has_synced` never becomes true before the first list is in the cache and its keys are delivered;
- an unreadable object delays no other object, and `num_unreadable` counts it while it exists;
- `trouble` is set while the cache is not filled, or has failed to be brought up to date for 90 s.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field
from random import Random

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.client import WATCH_SECONDS, ApiServer
from taper_operator.kube.errors import ApiError, Gone, ResourceNotServed, Unreachable
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.json_field import text_at
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch, WatchEvent

log = logging.getLogger(__name__)

_BACKOFF = Backoff(first_seconds=1.0, cap_seconds=10.0, jitter=0.5)
# A watch that lived this long did not fail.
_LIVED_SECONDS = 30.0
# A resumed watch may be silent until its next bookmark; there is one every minute.
_STALE_SECONDS = 90.0
# So that watches that began together do not end together.
_JITTER_SECONDS = 30


@dataclass(eq=False)
class Reflector:
    """See the module's docstring.

    namespace: empty for all. Several reflectors, each with a namespace of its own, may share a cache
    deliver: called with each key to reconcile; it must not block
    warn: called with an unreadable object and the error, once until the next list
    is_optional: a kind that the API server does not serve counts as a kind without objects
    clock: monotonic seconds
    has_synced: whether the cache has been filled once
    is_served: whether the API server knew the kind when it was last asked
    """

    api_server: ApiServer
    resource: Resource
    cache: ObjectCache
    _: KW_ONLY
    deliver: Callable[[ObjectKey], None]
    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)
    namespace: str = ""
    label_selector: str = ""
    is_optional: bool = False
    warn: Callable[[KubeObject, Exception], None] = lambda obj, error: None

    def __post_init__(self) -> None:
        self.num_lists = 0
        self.num_watches = 0
        self._failures = 0
        self._resource_version = 0  # 0: to be listed
        self.has_synced = False
        self._failing_since: float | None = None
        self._unreadable: set[ObjectKey] = set()
        self.is_served = True
        self._stopped = threading.Event()
        self._watch: Watch | None = None

    @property
    def num_unreadable(self) -> int:
        """Number of existing objects that were found unreadable."""
        return len(self._unreadable)

    @property
    def trouble(self) -> str:
        """Why the cache may differ from the API server's state; empty if it should not."""
        if not self.has_synced:
            return "not synced"
        since = self._failing_since
        if since is not None and self.clock() - since > _STALE_SECONDS:
            return f"out of date for {self.clock() - since:.0f} s"
        return ""

    def run(self) -> None:
        while not self._stopped.is_set():
            self._stopped.wait(self.step())

    def stop(self) -> None:
        """Make `run` return, even while it waits for an event. May be called from any thread."""
        self._stopped.set()
        watch = self._watch
        if watch is not None:
            watch.stop()

    def step(self) -> float:
        """List if needed, and watch until that ends; returns the seconds to wait before the next step."""
        began = self.clock()
        error: Exception | None = None
        try:
            if not self._resource_version:
                self._list()
            self._follow()
        except ApiError as caught:
            error = caught
            self._note(caught)
        except Exception as caught:
            error = caught
            log.exception("%s: the reflector failed", self)
        lived_seconds = self.clock() - began
        self._note_freshness(lived_seconds, error)
        return self._wait_seconds(lived_seconds, error if isinstance(error, ApiError) else None)

    def _list(self) -> None:
        self.num_lists += 1
        listed = self.api_server.list(
            self.resource, namespace=self.namespace, label_selector=self.label_selector
        )
        self.is_served = True
        self._replace(listed.items)
        self._resource_version = int(listed.resource_version)
        self.has_synced = True
        self._failing_since = None

    def _replace(self, objects: list[KubeObject]) -> None:
        self._unreadable.clear()
        self._deliver_keys(self.cache.replace(objects, namespace=self.namespace, skip=self._skip))

    def _follow(self) -> None:
        self.num_watches += 1
        watch = self.api_server.watch(
            self.resource,
            resource_version=str(self._resource_version),
            namespace=self.namespace,
            label_selector=self.label_selector,
            timeout_seconds=WATCH_SECONDS - self.random.randrange(_JITTER_SECONDS),
        )
        with contextlib.closing(watch):
            self._watch = watch
            if self._stopped.is_set():
                return
            for event in watch:
                self._take(event)
        self._watch = None

    def _take(self, event: WatchEvent) -> None:
        try:
            version = int(event.object["metadata"]["resourceVersion"])
        except Exception as error:
            # A later event or bookmark gives the watch's progress.
            self._skip(event.object, error)
            return
        if event.type == "BOOKMARK":
            if version < self._resource_version:
                raise Gone(f"the API server went back from {self._resource_version} to {version}")
        elif version <= self._resource_version:
            return
        else:
            self._store(event)
        # Only after its key is delivered: an event that failed is delivered again.
        self._resource_version = version
        self._failing_since = None

    def _store(self, event: WatchEvent) -> None:
        try:
            key = key_of(event.object)
            is_deleted = event.type == "DELETED"
            changed = self.cache.remove(key) if is_deleted else self.cache.put(event.object)
        except Exception as error:
            self._skip(event.object, error)
            return
        self._unreadable.discard(key)
        self._deliver_keys(changed)

    def _skip(self, obj: KubeObject, error: Exception) -> None:
        """Skip an unreadable object: to the cache it does not exist."""
        key = _key_in(obj)
        self._deliver_keys(self.cache.remove(key))
        if key in self._unreadable:
            return
        self._unreadable.add(key)
        log.error("%s: %s is unreadable and skipped", self, key, exc_info=error)
        self.warn(obj, error)

    def _deliver_keys(self, keys: Iterable[ObjectKey]) -> None:
        for key in sorted(keys):
            self.deliver(key)

    def _note(self, error: ApiError) -> None:
        if isinstance(error, Gone):
            self._resource_version = 0
        elif isinstance(error, ResourceNotServed):
            self._resource_version = 0
            self.is_served = False
            self._replace([])
            self.has_synced = self.has_synced or self.is_optional
        if self._failures == 0 and not _is_held_back(error):
            log.warning("%s: %s", self, error)

    def _note_freshness(self, lived_seconds: float, error: Exception | None) -> None:
        is_absent = self.is_optional and isinstance(error, ResourceNotServed)
        if is_absent or (error is None and lived_seconds >= _LIVED_SECONDS):
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = self.clock()

    def _wait_seconds(self, lived_seconds: float, error: ApiError | None) -> float:
        asked = (error.retry_after_seconds if error is not None else None) or 0.0
        if _is_held_back(error):
            return asked * (1 + 0.5 * self.random.random())
        if lived_seconds >= _LIVED_SECONDS:
            self._failures = 0
            return asked
        self._failures += 1
        return max(asked, _BACKOFF.delay_seconds(self._failures, self.random))

    def __str__(self) -> str:
        return f"{self.resource} of {self.namespace or 'all namespaces'}"


def _key_in(obj: KubeObject) -> ObjectKey:
    """The key of an object of any form, empty where it has none."""
    return ObjectKey(text_at(obj, "metadata", "namespace"), text_at(obj, "metadata", "name"))


def _is_held_back(error: ApiError | None) -> bool:
    """Whether the circuit breaker, which paces the attempts, held the request back."""
    return isinstance(error, Unreachable) and bool(error.retry_after_seconds)
