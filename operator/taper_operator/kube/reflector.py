"""Keeps a cache equal to the objects of one kind: list once, then watch, list anew where that broke.

Strategy: a list gives the objects and a resourceVersion; the watch from there tells every
change and, in bookmarks, how far it has come. A watch that ended goes on from where it was. A
resourceVersion that the API server no longer knows (410), or that it never had (bookmarks
that go back: etcd was restored), means a new list, whose difference to the cache is told
like any change: deletions that were missed are told too. ResourceVersions are compared as the
integers that they are (by Kubernetes' API contract since 1.35), so that an event told twice is
taken once.

A list asks for the latest state, never for a cached one: the cache would go back in time.

Invariants (asserted by `tests/operator/kube/test_reflector.py`):
- whatever is dropped, broken off, answered with 410 or told twice, the cache becomes the API server's
  state once that answers, and every key whose object came, changed or went has been told after it did;
- an object in the cache never goes back to an older version (but for an API server that did);
- failures in a row are at most ten a minute; a broken watch that had lived goes on at once;
- `has_synced` never becomes true before the first list is in the cache and its keys are told.
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
from taper_operator.kube.resource import ObjectKey, Resource, key_of
from taper_operator.kube.watch import Watch, WatchEvent

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_seconds=1.0, cap_seconds=10.0, jitter=0.5)
# A watch that lived this long was no failure.
_LIVED_SECONDS = 30.0
# Watches that began together do not end together.
_JITTER_SECONDS = 30


class Reflector:
    """See the module's docstring.

    namespace: empty for all. Several reflectors, each with a namespace of its own, may share a cache
    deliver: is given the keys to reconcile; it must not wait
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
        self._backoff = backoff
        self._failures = 0
        self._resource_version = 0  # 0: to be listed
        self._has_synced = False
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
        error: ApiError | None = None
        try:
            if not self._resource_version:
                self._list()
            self._follow()
        except ApiError as caught:
            error = caught
            self._note(caught)
        except Exception:
            # The event comes again, since what has been taken ends before it.
            log.exception("%s: the reflector failed", self)
        return self._wait_seconds(self._clock() - began, error)

    def _list(self) -> None:
        self.num_lists += 1
        listed = self._api_server.list(
            self.resource, namespace=self.namespace, label_selector=self._label_selector
        )
        self._is_served = True
        self._deliver_keys(self.cache.replace(listed.items, namespace=self.namespace))
        self._resource_version = int(listed.resource_version)
        self._has_synced = True

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
        version = int(event.object["metadata"]["resourceVersion"])
        if event.type == "BOOKMARK":
            if version < self._resource_version:
                raise Gone(f"the API server went back from {self._resource_version} to {version}")
        elif version <= self._resource_version:
            return
        elif event.type == "DELETED":
            self._deliver_keys(self.cache.remove(key_of(event.object)))
        else:
            self._deliver_keys(self.cache.put(event.object))
        # Only once it is taken: what fails comes again.
        self._resource_version = version

    def _deliver_keys(self, keys: Iterable[ObjectKey]) -> None:
        for key in sorted(keys):
            self._deliver(key)

    def _note(self, error: ApiError) -> None:
        if isinstance(error, Gone):
            self._resource_version = 0
        elif isinstance(error, ResourceNotServed):
            self._resource_version = 0
            self._is_served = False
            self._deliver_keys(self.cache.replace((), namespace=self.namespace))
            self._has_synced = self._has_synced or self._is_optional
        if self._failures == 0 and not _is_held_back(error):
            log.warning("%s: %s", self, error)

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


def _is_held_back(error: ApiError | None) -> bool:
    """By the circuit breaker, which sets the pace of those who try."""
    return isinstance(error, Unreachable) and bool(error.retry_after_seconds)
