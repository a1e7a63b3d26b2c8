"""Candidates, each with a clock of its own, and the one Lease that they ask for, over a network that loses.

Every step of a candidate (to ask, to be answered, to write) is an event. A process that is
stopped takes its events up when it goes on: what it had decided before, it still does then.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from taper_operator.kube.election.lease_claim import ClaimState, LeaseClaim, LeaseRequest, LeaseVerb
from taper_operator.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, Unreachable
from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.settings.parsing import LeaseTimes

KEY = ObjectKey("taper", "taper-operator")
START = datetime(2026, 11, 21, tzinfo=UTC)


class LeaseStore:
    """The API server, as far as one Lease goes."""

    def __init__(self) -> None:
        self.lease: KubeObject | None = None
        self.version = 0
        self.uids = itertools.count(1)

    def ask(self, request: LeaseRequest) -> KubeObject | ApiError:
        if request.verb is LeaseVerb.READ:
            return copy.deepcopy(self.lease) if self.lease else NotFound("no lease")
        assert request.lease is not None
        if request.verb is LeaseVerb.CREATE:
            if self.lease:
                return AlreadyExists("another lease")
            return self._write(request.lease, f"uid-{next(self.uids)}")
        if not self.lease:
            return NotFound("no lease")
        if request.lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return Conflict("another write")
        return self._write(request.lease, self.lease["metadata"]["uid"])

    def _write(self, lease: KubeObject, uid: str) -> KubeObject:
        # A write that changes nothing is no write.
        if self.lease is None or lease["spec"] != self.lease["spec"]:
            self.version += 1
            self.lease = copy.deepcopy(lease)
            self.lease["metadata"] |= {"resourceVersion": str(self.version), "uid": uid}
        return copy.deepcopy(self.lease)


@dataclass
class Candidate:
    """rate: of its clock; wall_jumps: its wall clock is anywhere"""

    claim: LeaseClaim
    rate: float
    offset: float
    wall_offset: float
    stopped_until: float = 0.0

    def now(self, at: float) -> float:
        return self.offset + self.rate * at

    def wall(self, at: float) -> datetime:
        return START + timedelta(seconds=self.wall_offset + at)

    def leads(self, at: float) -> bool:
        return self.claim.leads(self.now(at))


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How bad it gets. lost: the share of requests or answers; slow and stopped: the longest, in seconds."""

    lost: float = 0.0
    slow_seconds: float = 0.05
    stopped_seconds: float = 0.0
    stop_share: float = 0.0


@dataclass
class Simulation:
    """Runs events in order of true time, and checks after each that at most one candidate leads."""

    random: Random
    faults: Faults
    rates: list[float]
    times: LeaseTimes = field(default_factory=LeaseTimes)

    def __post_init__(self) -> None:
        self.at = 0.0
        self.store = LeaseStore()
        self.events: list[tuple[float, int, Candidate, Callable[[Candidate], None]]] = []
        self.sequence = itertools.count()
        self.candidates: list[Candidate] = []
        self.writes: list[tuple[float, Candidate]] = []
        self.terms: list[tuple[float, Candidate]] = []
        for rate in self.rates:
            self.join(rate)

    def join(self, rate: float) -> Candidate:
        identity = f"replica-{next(self.sequence)}"
        claim = LeaseClaim(key=KEY, identity=identity, times=self.times)
        candidate = Candidate(
            claim=claim,
            rate=rate,
            offset=self.random.uniform(0, 1e6),
            wall_offset=self.random.uniform(-1e6, 1e6),
        )
        self.candidates.append(candidate)
        self.schedule(self.random.uniform(0, 3), candidate, self.ask)
        return candidate

    def schedule(self, seconds: float, who: Candidate, do: Callable[[Candidate], None]) -> None:
        heapq.heappush(self.events, (self.at + seconds, next(self.sequence), who, do))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            at, _, who, do = heapq.heappop(self.events)
            self.at = max(self.at, at)
            if who.stopped_until > self.at:
                heapq.heappush(self.events, (who.stopped_until, next(self.sequence), who, do))
                continue
            do(who)
            leaders = [c.claim.identity for c in self.candidates if c.leads(self.at)]
            assert len(leaders) <= 1, (self.at, leaders)
        self.at = until

    def leaders(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.leads(self.at)]

    # -- what candidates do ------------------------------------------------------------

    def ask(self, who: Candidate) -> None:
        request = who.claim.request(who.now(self.at), who.wall(self.at))
        self._maybe_stop(who)
        if request is None:
            # The process has ended; another is started in its place.
            self.join(who.rate)
            return
        self.send(who, request)

    def send(self, who: Candidate, request: LeaseRequest) -> None:
        """A process may be suspended between deciding and sending: it sends when it resumes."""

        def arrive(_: Candidate) -> None:
            reply = Unreachable("lost") if lost else self.store.ask(request)
            answer = Unreachable("lost") if answer_lost else reply
            self.schedule(self._delay(), who, lambda who: self.take(who, answer))

        lost = self.random.random() < self.faults.lost
        answer_lost = self.random.random() < self.faults.lost
        wire = max(0.0, who.stopped_until - self.at) + self._delay()
        # The network does not stop with the process.
        self.schedule(wire, _NETWORK, arrive)

    def take(self, who: Candidate, reply: KubeObject | ApiError) -> None:
        led = who.leads(self.at)
        who.claim.answer(who.now(self.at), reply)
        if who.leads(self.at) and not led:
            self.terms.append((self.at, who))
        self._maybe_stop(who)
        if who.leads(self.at):
            self.write(who)
        self.schedule(who.claim.wait_seconds(who.now(self.at), self.random) / who.rate, who, self.ask)

    def write(self, who: Candidate) -> None:
        """Some other object, as late as such a write may take effect."""
        left = who.claim.write_seconds_left(who.now(self.at))
        if left > 0:
            self.writes.append((self.at + left * self.random.random() / who.rate, who))

    def late_writes(self) -> list[tuple[float, str]]:
        """Writes that took effect after the term of another had begun."""
        return [
            (at, who.claim.identity)
            for at, who in self.writes
            for began, leader in self.terms
            if leader is not who and began <= at and began > self._began(who)
        ]

    def _began(self, who: Candidate) -> float:
        return next(at for at, leader in self.terms if leader is who)

    def _delay(self) -> float:
        return self.random.uniform(0, self.faults.slow_seconds)

    def _maybe_stop(self, who: Candidate) -> None:
        if self.random.random() < self.faults.stop_share:
            who.stopped_until = self.at + self.random.uniform(0, self.faults.stopped_seconds)


_NETWORK = Candidate(
    claim=LeaseClaim(key=KEY, identity="network", times=LeaseTimes()), rate=1, offset=0, wall_offset=0
)

__all__ = ["KEY", "START", "Candidate", "ClaimState", "Faults", "LeaseStore", "Simulation"]
