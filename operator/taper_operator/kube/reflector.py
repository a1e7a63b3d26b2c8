"""Keeps a cache equal to the objects of one kind: list once, then watch, list anew where that broke.

Strategy: a list gives the objects and a resourceVersion; the watch from there tells every
change and, in bookmarks, how far it has come. A watch that ended goes on from where it was. A
resourceVersion that the API server no longer knows (410), or that it never had (bookmarks
that go back: etcd was restored), means a new list, whose difference to the cache is told
like any change: deletions that were missed are told too. ResourceVersions are compared as the
integers that they are (by Kubernetes' API contract since 1.35), so that an event told twice is
taken once.

A list asks for the latest state, never for a cached one: the cache would go back in time.

An object that cannot be read, for whatever reason, is passed over, so that it never keeps out another: the
cache does not hold it, its key is delivered, and `warn` is called with it.

Invariants (asserted by `tests/operator/kube/test_reflector.py`):
- whatever is dropped, broken off, answered with 410 or told twice, the cache becomes the API server's
  state once that answers, and every key whose object came, changed or went has been told after it did;
- an object in the cache never goes back to an older version (but for an API server that did);
- failures in a row are at most ten a minute; a broken watch that had lived goes on at once;
- `has_synced` never becomes true before the first list is in the cache and its keys are told;
- an object that cannot be read delays no other object, and `num_unreadable` counts it while it is there;
- `trouble` says so while the cache is not filled, or has not been brought up to date for 90 s of failures.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from random import Random

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.cache import ObjectCache
from taper_operator.kube.client import WATCH_SECONDS, ApiServer
from taper_operator.kube.errors import ApiError, Gone, ResourceNotServed, Unreachable
from taper_operator.kube.json_field import text_at
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch, WatchEvent

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_seconds=1.0, cap_seconds=10.0, jitter=0.5)
# A watch that lived this long was no failure.
_LIVED_SECONDS = 30.0
# A watch that came back may be silent until its next bookmark, which comes every minute.
_STALE_SECONDS = 90.0
# Watches that began together do not end together.
_JITTER_SECONDS = 30


class Reflector:
    """See the module's docstring.

    namespace: empty for all. Several reflectors, each with a namespace of its own, may share a cache
    deliver: is given the keys to reconcile; it must not wait
    warn: is given an object that cannot be read, and why not, once until the next list
    is_optional: a kind that is not served is as good as one without objects
    clock: monotonic seconds
    """

    def __init__(
        self,
        api_server: ApiServer,
        resource: Resource,
        cache: ObjectCache,
        *,
        deliver: Callable[[ObjectKey], None],
        clock: Callable[[], float],
        random: Random,
        namespace: str = "",
        label_selector: str = "",
        is_optional: bool = False,
        warn: Callable[[KubeObject, Exception], None] = lambda obj, error: None,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self.resource = resource
        self.cache = cache
        self.namespace = namespace
        self.num_lists = 0
        self.num_watches = 0
        self._api_server = api_server
        self._deliver = deliver
        self._clock = clock
        self._random = random
        self._label_selector = label_selector
        self._is_optional = is_optional
        self._warn = warn
        self._backoff = backoff
        self._failures = 0
        self._resource_version = 0  # 0: to be listed
        self._has_synced = False
        self._failing_since: float | None = None
        self._unreadable: set[ObjectKey] = set()
        self._is_served = True
        self._stopped = threading.Event()
        self._watch: Watch | None = None

    @property
    def has_synced(self) -> bool:
        """Whether the cache has been filled once."""
        return self._has_synced

    @property
    def is_served(self) -> bool:
        """Whether the API server knew the kind when it was last asked."""
        return self._is_served

    @property
    def num_unreadable(self) -> int:
        """Objects that are there but cannot be read, as far as is known."""
        return len(self._unreadable)

    @property
    def trouble(self) -> str:
        """Why the cache is not what the API server has; empty while nothing is known against it."""
        if not self._has_synced:
            return "not synced"
        since = self._failing_since
        if since is not None and self._clock() - since > _STALE_SECONDS:
            return f"out of date for {self._clock() - since:.0f} s"
        return ""

    def run(self) -> None:
        """Reflect until `stop`, from whichever thread."""
        while not self._stopped.is_set():
            self._stopped.wait(self.step())

    def stop(self) -> None:
        """Have `run` return, also while it waits for the API server's next event."""
        self._stopped.set()
        watch = self._watch
        if watch is not None:
            watch.stop()

    def step(self) -> float:
        """List if need be, and watch until that ends; returns the seconds to wait before the next step."""
        began = self._clock()
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
        lived_seconds = self._clock() - began
        self._note_freshness(lived_seconds, error)
        return self._wait_seconds(lived_seconds, error if isinstance(error, ApiError) else None)

    def _list(self) -> None:
        self.num_lists += 1
        listed = self._api_server.list(
            self.resource, namespace=self.namespace, label_selector=self._label_selector
        )
        self._is_served = True
        self._deliver_keys(self._replaced(listed.items))
        self._resource_version = int(listed.resource_version)
        self._has_synced = True
        self._failing_since = None

    def _replaced(self, objects: list[KubeObject]) -> set[ObjectKey]:
        """The keys of what has changed in the cache, which now has these objects."""
        self._unreadable.clear()
        try:
            return self.cache.replace(objects, namespace=self.namespace)
        except Exception:
            # One of them cannot be read.
            readable = [obj for obj in objects if self._can_read(obj)]
        return self.cache.replace(readable, namespace=self.namespace)

    def _can_read(self, obj: KubeObject) -> bool:
        try:
            self.cache.check(obj)
        except Exception as error:
            self._pass_over(obj, error)
            return False
        return True

    def _follow(self) -> None:
        self.num_watches += 1
        watch = self._api_server.watch(
            self.resource,
            resource_version=str(self._resource_version),
            namespace=self.namespace,
            label_selector=self._label_selector,
            timeout_seconds=WATCH_SECONDS - self._random.randrange(_JITTER_SECONDS),
        )
        with watch:
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
            # A later event or bookmark says how far the watch has come.
            self._pass_over(event.object, error)
            return
        if event.type == "BOOKMARK":
            if version < self._resource_version:
                raise Gone(f"the API server went back from {self._resource_version} to {version}")
        elif version <= self._resource_version:
            return
        else:
            self._store(event)
        # Only once its key is delivered: what fails comes again.
        self._resource_version = version
        self._failing_since = None

    def _store(self, event: WatchEvent) -> None:
        try:
            key = key_of(event.object)
            is_deleted = event.type == "DELETED"
            changed = self.cache.remove(key) if is_deleted else self.cache.put(event.object)
        except Exception as error:
            self._pass_over(event.object, error)
            return
        self._unreadable.discard(key)
        self._deliver_keys(changed)

    def _pass_over(self, obj: KubeObject, error: Exception) -> None:
        """Go on without an object: as far as the cache knows it is not there."""
        key = _key_in(obj)
        self._deliver_keys(self.cache.remove(key))
        if key in self._unreadable:
            return
        self._unreadable.add(key)
        log.error("%s: %s cannot be read and is passed over", self, key, exc_info=error)
        self._warn(obj, error)

    def _deliver_keys(self, keys: Iterable[ObjectKey]) -> None:
        for key in sorted(keys):
            self._deliver(key)

    def _note(self, error: ApiError) -> None:
        if isinstance(error, Gone):
            self._resource_version = 0
        elif isinstance(error, ResourceNotServed):
            self._resource_version = 0
            self._is_served = False
            self._deliver_keys(self._replaced([]))
            self._has_synced = self._has_synced or self._is_optional
        if self._failures == 0 and not _is_held_back(error):
            log.warning("%s: %s", self, error)

    def _note_freshness(self, lived_seconds: float, error: Exception | None) -> None:
        is_absent = self._is_optional and isinstance(error, ResourceNotServed)
        if is_absent or (error is None and lived_seconds >= _LIVED_SECONDS):
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = self._clock()

    def _wait_seconds(self, lived_seconds: float, error: ApiError | None) -> float:
        asked = (error.retry_after_seconds if error is not None else None) or 0.0
        if _is_held_back(error):
            return asked * (1 + 0.5 * self._random.random())
        if lived_seconds >= _LIVED_SECONDS:
            self._failures = 0
            return asked
        self._failures += 1
        return max(asked, self._backoff.delay_seconds(self._failures, self._random))

    def __str__(self) -> str:
        return f"{self.resource} of {self.namespace or 'all namespaces'}"


def _key_in(obj: KubeObject) -> ObjectKey:
    """The key of an object that may be anything, empty where it has none."""
    return ObjectKey(text_at(obj, "metadata", "namespace"), text_at(obj, "metadata", "name"))


def _is_held_back(error: ApiError | None) -> bool:
    """By the circuit breaker, which sets the pace of those who try."""
    return isinstance(error, Unreachable) and bool(error.retry_after_seconds)
