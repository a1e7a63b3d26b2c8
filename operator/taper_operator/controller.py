"""Runs the operator: keeps caches up to date and, while it leads, reconciles changed keys.

Every replica lists and watches. Once its caches are filled it takes part in the election. Its queue holds
each key once, so a new leader reconciles every existing object. Only the leader takes keys out. Reconciling
is level-triggered: it receives a key, not a change, and runs again after a failure, after a change, or after
the time that it asked for.

    start --caches filled--> electing --won--> leading --lost, a thread died--> exit 1
      \\______________________________\\__________\\______stop_______________--> exit 0

After `stop` nothing new begins, running reconciles may finish, the lease is released if none is left, and all
of that takes less than three seconds.

Invariants (asserted by `tests/operator/test_controller.py`):
- only a leader with filled caches reconciles;
- a key whose reconcile fails is reconciled again, and no failure ends a worker;
- the lease is released only when no reconcile is running;
- a process that has lost the lease exits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from taper_operator.http.health import HealthServer, Page, text_page
from taper_operator.kube.election.leader_elector import LeaderElector
from taper_operator.kube.errors import ApiError, Conflict, NotLeader
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.informer.work_queue import WorkQueue
from taper_operator.kube.resource import ObjectKey
from taper_operator.metrics import OperatorMetrics
from taper_operator.settings.parsing import Address

log = logging.getLogger(__name__)

# Returns the seconds after which to call it again even without a change, or None.
Reconcile = Callable[[ObjectKey], float | None]

_TICK_SECONDS = 0.05
# When a leader ends: the longest wait for its workers, and the time for everything.
_DRAIN_SECONDS = 1.5
_END_SECONDS = 2.5
# A reconcile sends a few requests, each of which takes at most about a minute.
_STUCK_SECONDS = 600.0


class Service(Protocol):
    """A background service that runs in every replica, whether it leads or not."""

    def run(self) -> None:
        """Run until `stop`; the process ends if this returns earlier."""

    def stop(self) -> None:
        """Make `run` return. Does not block."""


@dataclass(eq=False, kw_only=True)
class Controller:
    """See the module's docstring.

    services: keyed by the name of their thread, the reflectors among them
    num_workers: how many keys are reconciled at a time
    address: where health and metrics are served
    """

    reflectors: Sequence[Reflector]
    queue: WorkQueue[ObjectKey]
    elector: LeaderElector
    reconcile: Reconcile
    metrics: OperatorMetrics
    num_workers: int
    address: Address
    services: Mapping[str, Service]

    def __post_init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._workers: list[threading.Thread] = []
        self._election: threading.Thread | None = None
        self._is_stopping = False
        self._server: HealthServer | None = None

    def stop(self) -> None:
        """Make `run` return. Takes no lock: a signal handler may call it."""
        self._is_stopping = True

    def run(self) -> int:
        """Run until `stop`, or until this replica must end; returns the exit code of the process.

        Raises OSError where the port cannot be opened.
        """
        pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_page}
        self._server = HealthServer(self.address, pages)
        self._threads = [self._start("health", self._server.run)]
        self._threads += [self._start(name, service.run) for name, service in self.services.items()]
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
        """Loop until `stop`; returns the problem that ended it, empty if none did."""
        while not self._is_stopping:
            problem = self._problem()
            if problem:
                return problem
            if self._election is None and all(each.has_synced for each in self.reflectors):
                self._election = self._start("elect", self.elector.run)
            if not self._workers and self.elector.is_leader_now():
                self._workers = [self._start("work", self._work) for _ in range(self.num_workers)]
            time.sleep(_TICK_SECONDS)
        return ""

    def _problem(self) -> str:
        if self.elector.has_ended:
            return "the lease was lost: this replica exits, another leads"
        dead = [thread.name for thread in self._all_threads() if not thread.is_alive()]
        return f"a thread has died: {', '.join(dead)}" if dead else ""

    def _all_threads(self) -> list[threading.Thread]:
        return [*self._threads, *self._workers, *([self._election] if self._election else [])]

    # -- working -----------------------------------------------------------------------

    def _work(self) -> None:
        while (key := self.queue.take_or_wait()) is not None:
            try:
                if self.elector.is_leader_now():
                    self._handle(key)
            finally:
                self.queue.done(key)

    def _handle(self, key: ObjectKey) -> None:
        began = time.monotonic()
        result = self._attempt(key)
        self.metrics.observe_reconcile(result, time.monotonic() - began)

    def _attempt(self, key: ObjectKey) -> str:
        """Reconcile once and queue the key again where needed; returns the result for the metric."""
        try:
            again_seconds = self.reconcile(key)
        except NotLeader:
            # The new leader has all keys in its queue.
            return "not_leader"
        except Conflict as error:
            # The cache was out of date; its update is on the way.
            log.info("%s: %s", key, error)
            self.queue.add_after_failure(key)
            return "conflict"
        except ApiError as error:
            if error.retry_after_seconds is not None:
                # Not caused by the key: its own backoff does not grow.
                self.queue.add_after(key, error.retry_after_seconds)
                return "held_back"
            log.warning("%s: %s: %s", key, type(error).__name__, error)
            self.queue.add_after_failure(key)
            return "api_error"
        except Exception:
            log.exception("%s: reconcile failed", key)
            self.queue.add_after_failure(key)
            return "error"
        self.queue.forget(key)
        if again_seconds is not None:
            self.queue.add_after(key, again_seconds)
        return "success"

    # -- ending ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Wait for running reconciles, then let another replica lead."""
        self.queue.shut_down()
        self.elector.stop()
        began = time.monotonic()
        deadline = began + _DRAIN_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        if any(worker.is_alive() for worker in self._workers):
            # Its writes must not overlap with those of the next leader.
            log.warning("a reconcile is still running: the lease is left to expire")
            return
        # In a thread of its own: connecting may take longer than there is time.
        seconds = began + _END_SECONDS - time.monotonic()
        self._start("release", lambda: self._release(seconds)).join(seconds)

    def _release(self, seconds: float) -> None:
        # Half of the time for a running request, half for the release: a busy API server takes a second.
        if self.elector.release(wait_seconds=seconds / 2):
            log.info("the lease was released")

    def _end(self) -> None:
        self.queue.shut_down()
        self.elector.stop()
        for service in self.services.values():
            service.stop()
        if self._server is not None:
            self._server.stop()

    # -- pages -------------------------------------------------------------------------

    def _healthz(self, accept: str) -> Page:
        """A replica that cannot reach the API server is healthy: a restart would not help."""
        dead = [f"ended: {thread.name}" for thread in self._all_threads() if not thread.is_alive()]
        stuck = self.queue.longest_handled_seconds() > _STUCK_SECONDS
        return text_page([*dead, *(["stuck: a reconcile does not finish"] if stuck else [])])

    def _readyz(self, accept: str) -> Page:
        """A replica whose caches are out of date is not ready."""
        return text_page([f"{each.trouble}: {each}" for each in self.reflectors if each.trouble])

    def _metrics_page(self, accept: str) -> Page:
        body, content_type = self.metrics.exposition(accept)
        return Page(200, content_type, body)

    @staticmethod
    def _start(name: str, target: Callable[[], object]) -> threading.Thread:
        # Daemon threads: none may keep a process that has lost the lease from exiting at once.
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread
