"""One candidate's view of the Lease, as a state machine without I/O: what to request next, and who leads.

Strategy: as in client-go, a candidate never trusts another's clock. It takes a lease over only after its own
monotonic clock has seen no change of the lease for its whole duration. The leader counts from before it sent
its last successful renewal, gives up well before others may take over, and never leads again in this process.
Every write carries the resourceVersion that was read, so of two writes one fails.

    FOLLOWING --write succeeded--> LEADING --deadline, another holder, no lease, release--> ENDED

The times hold while clocks run at rates that differ by less than duration / renew deadline. The clock must
also run while the machine sleeps.

Invariants (asserted by `tests/operator/kube/test_lease_claim.py`):
- two candidates never lead at the same time, however long they are stopped, whatever messages are lost;
- a write that began while `write_seconds_left` was positive, and takes effect within that time, does so
  before another candidate leads;
- once faults end, some candidate leads within the lease's duration and two retry periods;
- `ENDED` is final, and `renewTime` changes with every renewal.
"""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from taper_operator.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from taper_operator.kube.resource import LEASES, KubeObject, ObjectKey
from taper_operator.settings.parsing import LeaseTimes

_NEVER = float("-inf")
_SOON_SECONDS = 0.2


class ClaimState(enum.Enum):
    """See the module's docstring."""

    FOLLOWING = "following"
    LEADING = "leading"
    ENDED = "ended"


class LeaseVerb(enum.Enum):
    """What to do with the Lease."""

    READ = "read"
    CREATE = "create"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """lease: to be written, None for a read"""

    verb: LeaseVerb
    lease: KubeObject | None = None


class LeaseClaim:
    """See the module's docstring. `now` is monotonic seconds, `wall` is only
    written into the Lease.

    identity: unique to this process
    """

    def __init__(self, *, key: ObjectKey, identity: str, times: LeaseTimes) -> None:
        assert times.is_decreasing, times
        self.identity = identity
        self.state = ClaimState.FOLLOWING
        self._key = key
        self._times = times
        self._next = LeaseVerb.READ
        self._lease: KubeObject | None = None
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = _NEVER
        self._sent_at = _NEVER
        self._has_failed = False
        self._last_renewed: datetime | None = None
        # A single number says whether this process leads, so that other threads never see half of a change.
        self._deadline = _NEVER

    @property
    def holder(self) -> str:
        """The holder of the lease when it was last read, empty if none."""
        return str(_spec(self._lease).get("holderIdentity") or "")

    def leads(self, now: float) -> bool:
        return now < self._deadline

    def seconds_to_deadline(self, now: float) -> float:
        """How long this process leads without another renewal; 0 or less if it does not lead."""
        return self._deadline - now

    def write_seconds_left(self, now: float) -> float:
        """How long a write that begins now may still take effect; 0 if none may begin.

        Half of the time between the leader's deadline and a takeover is a reserve for clocks that run at
        different rates.
        """
        if not self.leads(now):
            return 0.0
        slack = self._times.duration_seconds - self._times.renew_deadline_seconds
        return self._deadline - now + slack / 2

    # -- requests ----------------------------------------------------------------------

    def request(self, now: float, wall: datetime) -> LeaseRequest | None:
        """The request to send now; None once the claim has ended. `answer` must follow."""
        if self.state is ClaimState.LEADING and not self.leads(now):
            self._end()
        if self.state is ClaimState.ENDED:
            return None
        self._sent_at = now
        if self._next is LeaseVerb.READ:
            return LeaseRequest(verb=LeaseVerb.READ)
        return LeaseRequest(verb=self._next, lease=self._mine(wall))

    def release(self, now: float, wall: datetime) -> LeaseRequest | None:
        """Stop leading; returns the write that lets another lead at once, None if it did not lead."""
        lease, led = copy.deepcopy(self._lease), self.leads(now)
        self._end()
        if not led or lease is None:
            return None
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._renew_time(wall)}
        lease["spec"] = _spec(lease) | spec
        return LeaseRequest(verb=LeaseVerb.REPLACE, lease=lease)

    def answer(self, now: float, reply: KubeObject | ApiError) -> None:
        if self.state is ClaimState.ENDED:
            return
        # For a create, the namespace is missing.
        is_absent = isinstance(reply, NotFound) and self._next is not LeaseVerb.CREATE
        self._has_failed = isinstance(reply, ApiError) and not is_absent
        if is_absent:
            self._take_absence(now)
        elif isinstance(reply, ApiError):
            self._take_failure(reply)
        elif self._next is LeaseVerb.READ:
            self._take_read(now, reply)
        else:
            self._take_written(now, reply)

    def wait_seconds(self, now: float, random: Random) -> float:
        period = self._times.retry_period_seconds * (0.8 + 0.2 * random.random())
        if self._has_failed:
            # A leader has only until its deadline.
            return period / 4 if self.state is ClaimState.LEADING else period
        if self.state is ClaimState.LEADING:
            return period
        if self._next is not LeaseVerb.READ:
            return 0.0
        return min(period, max(_SOON_SECONDS, self._free_at() - now))

    # -- replies ---------------------------------------------------------------------

    def _take_failure(self, error: ApiError) -> None:
        """Unless another write came first, a write may have taken effect: a leader renews again."""
        if is_conflict(error) or self.state is ClaimState.FOLLOWING:
            self._next = LeaseVerb.READ

    def _take_absence(self, now: float) -> None:
        if self.state is ClaimState.LEADING:
            # The Lease was deleted; another candidate may create it and lead at once.
            self._end()
            return
        if self._seen is None:
            self._seen_at = _NEVER
            self._next = LeaseVerb.CREATE
            self._lease = None
            return
        if self._lease is not None:
            # Its holder may not have noticed yet.
            self._lease = None
            self._seen_at = now
        self._next = LeaseVerb.CREATE if now >= self._free_at() else LeaseVerb.READ

    def _take_read(self, now: float, lease: KubeObject) -> None:
        self._lease = lease
        seen = (lease["metadata"].get("uid"), *(str(_spec(lease).get(field)) for field in _COMPARED))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if self.holder == self.identity:
            # A write whose answer was lost.
            self._next = LeaseVerb.REPLACE
        elif self.state is ClaimState.LEADING:
            self._end()
        elif now >= self._free_at():
            self._next = LeaseVerb.REPLACE

    def _take_written(self, now: float, lease: KubeObject) -> None:
        self._lease = lease
        self._next = LeaseVerb.REPLACE
        deadline = self._sent_at + self._times.renew_deadline_seconds
        if now < deadline:
            # In this order, or another thread could see a leader past its deadline.
            self._deadline = deadline
            self.state = ClaimState.LEADING
        elif self.state is ClaimState.FOLLOWING:
            # The write took so long that others may have taken over since.
            self._next = LeaseVerb.READ

    def _end(self) -> None:
        self.state, self._deadline = ClaimState.ENDED, _NEVER

    # -- the lease ---------------------------------------------------------------------

    def _free_at(self) -> float:
        """When this candidate may take over the lease."""
        if self._lease is not None and not self.holder:
            return _NEVER
        reply = _spec(self._lease).get("leaseDurationSeconds") or 0
        return self._seen_at + max(self._times.duration_seconds, float(reply))

    def _mine(self, wall: datetime) -> KubeObject:
        lease = copy.deepcopy(self._lease) or LEASES.manifest(self._key._asdict())
        renew_time = self._renew_time(wall)
        spec = _spec(lease)
        if spec.get("holderIdentity") != self.identity:
            transitions = int(spec.get("leaseTransitions") or 0) + (1 if self._lease else 0)
            spec |= {"acquireTime": renew_time, "leaseTransitions": transitions}
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._times.duration_seconds),
            "renewTime": renew_time,
        }
        lease["spec"] = spec
        return lease

    def _renew_time(self, wall: datetime) -> str:
        """Always a new time: a write that changes nothing is dropped, and others would see no renewal."""
        if self._last_renewed is not None:
            wall = max(wall, self._last_renewed + timedelta(microseconds=1))
        self._last_renewed = wall
        return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_conflict(error: ApiError) -> bool:
    """Whether another write came first."""
    return isinstance(error, (AlreadyExists, Conflict))


_COMPARED = ("holderIdentity", "acquireTime", "renewTime", "leaseTransitions", "leaseDurationSeconds")


def _spec(lease: KubeObject | None) -> dict[str, Any]:
    return dict((lease or {}).get("spec") or {})
