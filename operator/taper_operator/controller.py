"""Runs the operator: keeps caches warm, and while it leads, has changed keys reconciled.

Every replica lists and watches. Once its caches are filled it takes part in the election;
its queue holds each key once, so that a new leader reconciles every object there is. Only
the leader takes keys out. Reconciling is level-triggered: it is given a key, not a change,
and is called again after a failure, a change, or the time it asked for.

    start --caches filled--> electing --won--> leading --lost, a thread died--> exit 1
      \\______________________________\\__________\\______stop_______________--> exit 0

After `stop` nothing new is begun, what is under way is waited for, the lease is released if
nothing is under way any more, and all of that takes less than three seconds.

Invariants (asserted by `tests/operator/test_controller.py`):
- only a leader with filled caches reconciles;
- a key whose reconcile fails is reconciled again, and no failure ends a worker;
- the lease is released only when no reconcile is under way;
- a process that has lost the lease ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from taper_operator.http.health import HealthServer, Page, text_page
from taper_operator.kube.errors import ApiError, Conflict, NotLeader
from taper_operator.kube.leader_elector import LeaderElector
from taper_operator.kube.reflector import Reflector
from taper_operator.kube.resource import ObjectKey
from taper_operator.kube.work_queue import WorkQueue
from taper_operator.metrics import OperatorMetrics
from taper_operator.settings.parsing import Address

log = logging.getLogger(__name__)

# Returns the seconds after which it wants to be called again even without a change, or None.
Reconcile = Callable[[ObjectKey], float | None]

_TICK_SECONDS = 0.05
# Of the end of a leader: the longest that it waits for its workers, and all of it.
_DRAIN_SECONDS = 1.5
_END_SECONDS = 2.5
# A reconcile is some requests, none of which may take longer than a minute or so.
_STUCK_SECONDS = 600.0


class Service(Protocol):
    """What every replica does beside it all, whether it leads or not."""

    def open(self) -> None:
        """Take what is needed to run. Raises OSError."""

    def run(self) -> None:
        """Until `stop`, or for ever; its end without one ends the process."""

    def stop(self) -> None:
        """Have `run` end. Takes no time."""


class Controller:
    """See the module's docstring.

    services: by the name of their thread
    workers: how many keys are reconciled at a time
    address: where health and metrics are served
    """

    def __init__(
        self,
        *,
        reflectors: Sequence[Reflector],
        queue: WorkQueue[ObjectKey],
        elector: LeaderElector,
        reconcile: Reconcile,
        metrics: OperatorMetrics,
        workers: int,
        address: Address,
        services: Mapping[str, Service] = MappingProxyType({}),
    ) -> None:
        self._reflectors = list(reflectors)
        self._services = dict(services)
        self._queue = queue
        self._elector = elector
        self._reconcile = reconcile
        self._metrics = metrics
        self._num_workers = workers
        self._pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_page}
        self._address = address
        self._threads: list[threading.Thread] = []
        self._workers: list[threading.Thread] = []
        self._election: threading.Thread | None = None
        self._is_stopping = False
        self._server: HealthServer | None = None

    @property
    def port(self) -> int:
        """Of the health server, 0 while there is none."""
        return self._server.port if self._server is not None else 0

    def stop(self) -> None:
        """Have `run` end. Takes no lock: a signal handler may call it."""
        self._is_stopping = True

    def run(self) -> int:
        """Run until `stop`, or until this replica cannot go on; returns the exit code of the process.

        Raises OSError where an address cannot be listened at.
        """
        for service in self._services.values():
            service.open()
        self._server = HealthServer(self._address, self._pages)
        self._server.start()
        self._threads = [self._start(f"reflect {each}", each.run) for each in self._reflectors]
        self._threads += [self._start(name, service.run) for name, service in self._services.items()]
        try:
            problem = self._run()
            if not problem:
                self._drain()
        finally:
            self._end()
        if problem:
            log.error("%s", problem)
        return 1 if problem else 0

    def _run(self) -> str:
        """Until `stop`; returns what went wrong, empty if nothing did."""
        while not self._is_stopping:
            problem = self._problem()
            if problem:
                return problem
            if self._election is None and self.has_synced:
                self._election = self._start("elect", self._elector.run)
            if not self._workers and self._elector.is_leader_now():
                self._workers = [self._start("work", self._work) for _ in range(self._num_workers)]
            time.sleep(_TICK_SECONDS)
        return ""

    def _problem(self) -> str:
        if self._elector.has_ended:
            return "the lease was lost: this replica ends, another leads"
        dead = [thread.name for thread in self._all_threads() if not thread.is_alive()]
        return f"a thread has ended: {', '.join(dead)}" if dead else ""

    @property
    def has_synced(self) -> bool:
        """Whether all caches are filled."""
        return all(reflector.has_synced for reflector in self._reflectors)

    def _all_threads(self) -> list[threading.Thread]:
        return [*self._threads, *self._workers, *([self._election] if self._election else [])]

    # -- working -----------------------------------------------------------------------

    def _work(self) -> None:
        while (key := self._queue.take_or_wait()) is not None:
            try:
                if self._elector.is_leader_now():
                    self._handle(key)
            finally:
                self._queue.done(key)

    def _handle(self, key: ObjectKey) -> None:
        began = time.monotonic()
        result = self._attempt(key)
        self._metrics.observe_reconcile(result, time.monotonic() - began)

    def _attempt(self, key: ObjectKey) -> str:
        """Reconcile once, and see to it that it is done again where it must be; returns how it ended."""
        try:
            again_seconds = self._reconcile(key)
        except NotLeader:
            # Another leads, and has all keys.
            return "not_leader"
        except Conflict as error:
            # The cache was behind, and is about to be told.
            log.info("%s: %s", key, error)
            self._queue.add_after_failure(key)
            return "conflict"
        except ApiError as error:
            return self._attempt_failed(key, error)
        except Exception:
            log.exception("%s: reconcile failed", key)
            self._queue.add_after_failure(key)
            return "error"
        self._queue.forget(key)
        if again_seconds is not None:
            self._queue.add_after(key, again_seconds)
        return "success"

    def _attempt_failed(self, key: ObjectKey, error: ApiError) -> str:
        if error.retry_after_seconds is not None:
            # That is no fault of the key: its own backoff does not grow.
            self._queue.add_after(key, error.retry_after_seconds)
            return "held_back"
        log.warning("%s: %s: %s", key, type(error).__name__, error)
        self._queue.add_after_failure(key)
        return "api_error"

    # -- ending ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Wait for what is under way, then let another replica lead."""
        self._queue.shut_down()
        self._elector.stop()
        began = time.monotonic()
        deadline = began + _DRAIN_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        if any(worker.is_alive() for worker in self._workers):
            # What it still writes must not meet the writes of a successor.
            log.warning("a reconcile is still under way: the lease is left to run out")
            return
        # In a thread of its own, since connecting may take longer than there is time.
        seconds = began + _END_SECONDS - time.monotonic()
        self._start("release", lambda: self._release(seconds)).join(seconds)

    def _release(self, seconds: float) -> None:
        # Half of the time for a request under way, half for its own: a busy API server takes a second.
        if self._elector.release(wait_seconds=seconds / 2):
            log.info("the lease is released")

    def _end(self) -> None:
        self._queue.shut_down()
        self._elector.stop()
        for service in self._services.values():
            service.stop()
        for reflector in self._reflectors:
            reflector.stop()
        if self._server is not None:
            self._server.close()

    # -- pages -------------------------------------------------------------------------

    def _healthz(self, accept: str) -> Page:
        """A replica that cannot reach the API server is healthy: a restart would not help it."""
        dead = [f"ended: {thread.name}" for thread in self._all_threads() if not thread.is_alive()]
        stuck = self._queue.longest_handled_seconds() > _STUCK_SECONDS
        return text_page([*dead, *(["stuck: a reconcile does not end"] if stuck else [])])

    def _readyz(self, accept: str) -> Page:
        """A cache that is not up to date makes it unready: nothing it says or does could be relied on."""
        return text_page([f"{each.trouble}: {each}" for each in self._reflectors if each.trouble])

    def _metrics_page(self, accept: str) -> Page:
        body, content_type = self._metrics.exposition(accept)
        return Page(200, content_type, body)

    @staticmethod
    def _start(name: str, target: Callable[[], object]) -> threading.Thread:
        # Daemons: none may keep a process that has lost the lease from ending at once.
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread
