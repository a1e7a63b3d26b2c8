"""Leads, or waits to lead: sends the requests of a `LeaseClaim` to the API server.

Every writer asks `is_leader_now` (or `write_seconds_left`) right before each write; a process that was
stopped finds its deadline passed and writes nothing. Once lost, leadership never comes back to this
process: it should exit at once and be restarted.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from random import Random

from taper_operator.kube.client import ApiServer
from taper_operator.kube.election.lease_claim import (
    ClaimState,
    LeaseClaim,
    LeaseRequest,
    LeaseVerb,
    is_conflict,
)
from taper_operator.kube.errors import ApiError, NotFound
from taper_operator.kube.request import GRACE_SECONDS
from taper_operator.kube.resource import LEASES, KubeObject, ObjectKey
from taper_operator.kube.timestamp import utc_now
from taper_operator.settings.parsing import LeaseTimes

log = logging.getLogger(__name__)

_MIN_READ_SECONDS = 0.1


def boottime_clock() -> float:
    """Monotonic seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(eq=False)
class LeaderElector:
    """See the module's docstring. Its methods may be called from any thread.

    api_server: must not depend on this elector, and should use a short timeout for connecting
    identity: of this replica; a suffix makes it unique to this process
    clock: monotonic seconds, such as `boottime_clock`
    """

    api_server: ApiServer
    _: KW_ONLY
    key: ObjectKey
    identity: str
    times: LeaseTimes
    clock: Callable[[], float] = boottime_clock
    random: Random = field(default_factory=Random)
    wall_clock: Callable[[], datetime] = utc_now

    def __post_init__(self) -> None:
        # A replica restarted under its old name must not mistake its predecessor's lease for its own.
        self.identity = f"{self.identity}_{uuid.uuid4().hex[:12]}"
        self._claim = LeaseClaim(key=self.key, identity=self.identity, times=self.times)
        self._request_lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def has_ended(self) -> bool:
        """Whether this process has led and no longer does."""
        return self._claim.state is ClaimState.ENDED or (
            self._claim.state is ClaimState.LEADING and not self.is_leader_now()
        )

    def is_leader_now(self) -> bool:
        """Whether this process may write. Reads the clock only, sends no request."""
        return self._claim.leads(self.clock())

    def write_seconds_left(self) -> float:
        """For how long a write that begins now may still take effect; 0 or less: it must not begin."""
        return self._claim.write_seconds_left(self.clock())

    def run(self) -> None:
        """Take part in the election until `stop`, or until leadership is lost."""
        while not self._stopped.is_set() and not self.has_ended:
            self._stopped.wait(self.step())

    def stop(self) -> None:
        """Make `run` return after the current request."""
        self._stopped.set()

    def step(self) -> float:
        """Send one request; returns the seconds to wait before the next step."""
        with self._request_lock:
            before = self._claim.state
            request = self._claim.request(self.clock(), self.wall_clock())
            if request is not None:
                reply = self._exchange(request)
                self._claim.answer(self.clock(), reply)
            self._log_change(before)
            return self._claim.wait_seconds(self.clock(), self.random)

    def release(self, *, wait_seconds: float) -> bool:
        """Stop leading and let another lead at once; returns whether that was written.

        Call it only when no write is in progress. `wait_seconds` is for a request of `step` that is.
        """
        if not self._request_lock.acquire(timeout=wait_seconds):
            return False
        try:
            request = self._claim.release(self.clock(), self.wall_clock())
            return request is not None and not isinstance(self._exchange(request, wait_seconds), ApiError)
        finally:
            self._request_lock.release()

    def _exchange(self, request: LeaseRequest, read_seconds: float | None = None) -> KubeObject | ApiError:
        try:
            return self._send(request, read_seconds or self._read_seconds(request))
        except ApiError as error:
            if not isinstance(error, NotFound) and not is_conflict(error):
                level = logging.WARNING if self.is_leader_now() else logging.DEBUG
                log.log(level, "lease %s: could not %s it: %s", self.key, request.verb.value, error)
            return error

    def _send(self, request: LeaseRequest, read_seconds: float) -> KubeObject:
        if request.lease is None:
            return self.api_server.get(LEASES, self.key, read_seconds=read_seconds)
        if request.verb is LeaseVerb.CREATE:
            return self.api_server.create(LEASES, request.lease, read_seconds=read_seconds)
        return self.api_server.replace(LEASES, request.lease, read_seconds=read_seconds)

    def _read_seconds(self, request: LeaseRequest) -> float:
        """Short enough for a leader to retry on another connection before its deadline."""
        patience = 1.5 * self.times.retry_period_seconds
        if self.is_leader_now():
            patience = min(patience, self._claim.seconds_to_deadline(self.clock()))
        # The API server's client adds it to the time of a write.
        grace = GRACE_SECONDS if request.lease is not None else 0.0
        return max(_MIN_READ_SECONDS, patience - grace)

    def _log_change(self, before: ClaimState) -> None:
        if self._claim.state is not before:
            log.info("lease %s: %s is %s", self.key, self.identity, self._claim.state.value)
