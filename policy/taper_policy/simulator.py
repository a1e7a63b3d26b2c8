"""A replica's stage on paper: the same requests under any rule, priced by a profile.

All requests are there at the start. Each goes to the group with the fewest; each group
decodes one token a step for all it has, on a clock of its own; a step costs what the
profile says for its batch and mean context. A rule is asked at the start and whenever a response ends. A
switch waits until every group is between two steps, takes the profile's pause, and groups
the live requests as a live switch does.

Not modelled: prefill, requests that wait for room, requests that arrive later.

Invariants (asserted by `tests/policy/test_simulator.py`):
- without a switch the stage takes what its slowest group takes, step by step;
- every token of every request is decoded exactly once, whatever the switches;
- a rule that names the layout at hand changes nothing.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from taper_policy.decision import Prices

CONTEXT_POINTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request with its true length, which no rule may look at. `prompt` names its siblings."""

    rid: str
    prompt: str
    prompt_tokens: int
    response_tokens: int


@dataclass(slots=True)
class Live:
    """A live request: tokens made so far, and its group."""

    request: SimulatedRequest
    group: int
    decoded_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSwitch:
    """A switch that was made: at `at_seconds` of the stage, with so many live requests."""

    at_seconds: float
    from_degree: int
    to_degree: int
    live_requests: int
    pause_seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStage:
    """What became of a stage."""

    seconds: float
    idle_rank_seconds: float
    switches: tuple[SimulatedSwitch, ...]


@dataclass(slots=True)
class SimulatedReplica:
    """The state that a rule sees: what a coordinator would, and no true length."""

    footprint: int
    degree: int
    at_seconds: float
    live: list[Live]
    finished: list[SimulatedRequest] = field(default_factory=list)
    switches: list[SimulatedSwitch] = field(default_factory=list)

    def running(self) -> list[int]:
        """Live requests of each group."""
        counts = [0] * (self.footprint // self.degree)
        for live in self.live:
            counts[live.group] += 1
        return counts


Rule = Callable[[SimulatedReplica], tuple[int, str] | None]
"""The degree to have now and why, or None to stay."""


class StepClock:
    """Scalar step seconds, tabulated once from a profile's surface: a lookup takes a microsecond."""

    def __init__(self, prices: Prices, *, footprint: int, max_batch: int, max_context: int) -> None:
        self._prices, self._footprint = prices, footprint
        self._max_batch = max_batch
        points = np.unique(np.geomspace(1, max(2, max_context), CONTEXT_POINTS).round())
        self._contexts = [float(point) for point in points]
        self._tables: dict[int, list[list[float]]] = {}

    def seconds(self, degree: int, batch: int, context_tokens: float) -> float:
        """Seconds of a step of one group with `batch` requests of `context_tokens` on average."""
        row = self._table(degree)[batch - 1]
        contexts = self._contexts
        above = min(max(1, bisect.bisect_left(contexts, context_tokens)), len(contexts) - 1)
        low, high = contexts[above - 1], contexts[above]
        share = (context_tokens - low) / (high - low)
        return row[above - 1] + share * (row[above] - row[above - 1])

    def _table(self, degree: int) -> list[list[float]]:
        if degree not in self._tables:
            batches = np.arange(1, self._max_batch + 1, dtype=np.float64)
            batch, context = np.meshgrid(batches, np.array(self._contexts), indexing="ij")
            steps = self._prices.steps(degree)
            seconds = steps.seconds(batch, context, self._footprint // degree)
            self._tables[degree] = [[float(value) for value in row] for row in seconds]
        return self._tables[degree]


class _Group:
    """One group's requests, soonest end first, on a clock of its own."""

    def __init__(self, degree: int, members: list[Live], at_seconds: float, clock: StepClock) -> None:
        self._degree, self._clock = degree, clock
        self.at_seconds = at_seconds
        self.members = sorted(members, key=_left)
        self._context = float(sum(_context(live) for live in members))

    def next_end(self) -> float:
        """When the next response ends."""
        steps = _left(self.members[0])
        return self.at_seconds + steps * self._step_seconds(steps)

    def run(self, steps: int) -> list[Live]:
        """Decode `steps` tokens, at most to the next end; the requests that ended."""
        self.at_seconds += steps * self._step_seconds(steps)
        self._context += steps * len(self.members)
        for live in self.members:
            live.decoded_tokens += steps
        ended = []
        while self.members and _left(self.members[0]) == 0:
            ended.append(self.members.pop(0))
            self._context -= _context(ended[-1])
        return ended

    def run_to_boundary(self, at_seconds: float) -> None:
        """Finish the step that is under way at `at_seconds`; no response ends before it."""
        if not self.members:
            return
        span, steps = at_seconds - self.at_seconds, 1
        for _ in range(2):  # a step's seconds grow with the context, so with the number of steps
            steps = max(1, math.ceil(span / self._step_seconds(steps) - 1e-6))
        if span > 0:
            self.run(min(_left(self.members[0]) - 1, steps))

    def _step_seconds(self, steps: int) -> float:
        batch = len(self.members)
        return self._clock.seconds(self._degree, batch, self._context / batch + steps / 2)


def simulate(
    requests: Sequence[SimulatedRequest],
    prices: Prices,
    rule: Rule,
    *,
    footprint: int,
    degree: int,
    clock: StepClock,
) -> SimulatedStage:
    """Run a stage that begins at `degree` under `rule`. `ValueError` for a response of no tokens."""
    for request in requests:
        if request.response_tokens < 1:
            raise ValueError(f"response_tokens: {request.response_tokens} of {request.rid} is not 1 or more")
    live = [Live(request, index % (footprint // degree)) for index, request in enumerate(requests)]
    replica = SimulatedReplica(footprint=footprint, degree=degree, at_seconds=0.0, live=live)
    groups, idle = _asked(replica, _dealt(replica, clock), rule, prices, clock), 0.0
    while replica.live:
        busy = [group for group in groups if group.members]
        first = min(busy, key=_Group.next_end)
        ended = first.run(_left(first.members[0]))
        idle += (len(groups) - len(busy)) * replica.degree * (first.at_seconds - replica.at_seconds)
        replica.at_seconds = first.at_seconds
        gone = {id(one) for one in ended}
        replica.live = [one for one in replica.live if id(one) not in gone]
        replica.finished += [one.request for one in ended]
        groups = _asked(replica, groups, rule, prices, clock)
    return SimulatedStage(
        seconds=replica.at_seconds, idle_rank_seconds=idle, switches=tuple(replica.switches)
    )


def _asked(
    replica: SimulatedReplica, groups: list[_Group], rule: Rule, prices: Prices, clock: StepClock
) -> list[_Group]:
    answer = rule(replica) if replica.live else None
    if answer is None or answer[0] == replica.degree:
        return groups
    return _switch(replica, groups, *answer, prices, clock)


def _switch(
    replica: SimulatedReplica,
    groups: list[_Group],
    degree: int,
    reason: str,
    prices: Prices,
    clock: StepClock,
) -> list[_Group]:
    for group in groups:
        group.run_to_boundary(replica.at_seconds)
    began = max([replica.at_seconds, *(group.at_seconds for group in groups if group.members)])
    contexts = float(sum(_context(live) for live in replica.live))
    count = np.array([float(len(replica.live))])
    pause = float(prices.pause_seconds(replica.degree, degree, count, np.array([contexts]))[0])
    replica.switches.append(
        SimulatedSwitch(
            at_seconds=began,
            from_degree=replica.degree,
            to_degree=degree,
            live_requests=len(replica.live),
            pause_seconds=pause,
            reason=reason,
        )
    )
    replica.degree, replica.at_seconds = degree, began + pause
    _regroup(replica.live, replica.switches[-1].from_degree, degree)
    return _dealt(replica, clock)


def _regroup(live: list[Live], from_degree: int, to_degree: int) -> None:
    """As a live switch does: widening joins neighbours, narrowing spreads a group, most context first."""
    if to_degree > from_degree:
        for one in live:
            one.group = one.group * from_degree // to_degree
        return
    share, load = from_degree // to_degree, dict[int, int]()
    for one in sorted(live, key=lambda one: (-_context(one), one.request.rid)):
        candidates = range(one.group * share, (one.group + 1) * share)
        one.group = min(candidates, key=lambda group: (load.get(group, 0), group))
        load[one.group] = load.get(one.group, 0) + _context(one)


def _dealt(replica: SimulatedReplica, clock: StepClock) -> list[_Group]:
    members: list[list[Live]] = [[] for _ in range(replica.footprint // replica.degree)]
    for live in replica.live:
        members[live.group].append(live)
    return [_Group(replica.degree, mine, replica.at_seconds, clock) for mine in members]


def _left(live: Live) -> int:
    return live.request.response_tokens - live.decoded_tokens


def _context(live: Live) -> int:
    return live.request.prompt_tokens + live.decoded_tokens
