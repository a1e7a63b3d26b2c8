"""Simulates a generation stage of a replica: the same requests under any policy, priced by a profile.

All requests are there at the start, prefilled, each with the first token of its response. Each goes to
the group with the fewest requests; each group decodes one token a step for all it has, on a clock of its
own; a step costs what the profile says for its batch and mean context (`timeline`). A policy is asked at
the start, whenever a response ends and, while none does, whenever the stage has lasted `PATIENCE` times
as long. A switch waits until every group is between two steps, takes the profile's pause, and groups the
live requests as a live switch does.

Not modelled: the seconds of prefill, requests that wait for room, requests that arrive later.

Invariants (asserted by `tests/policy/simulation/test_simulator.py`):
- without a switch the stage takes what its slowest group takes, step by step;
- every token of every request but its first is decoded exactly once, whatever the switches;
- a policy that asks for the present layout changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import IntArray
from taper_policy.decision.pricing import Prices
from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Batches, Timeline

__all__ = [
    "Policy",
    "SimulatedLiveRequest",
    "SimulatedReplica",
    "SimulatedRequest",
    "SimulatedStage",
    "SimulatedSwitch",
    "StepClock",
    "initial_batches",
    "simulate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request with its true length, which no policy may look at. `prompt` names its siblings."""

    rid: str
    prompt: str
    prompt_tokens: int
    response_tokens: int


@dataclass(slots=True)
class SimulatedLiveRequest:
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
    """A stage after its simulation."""

    seconds: float
    idle_rank_seconds: float
    switches: tuple[SimulatedSwitch, ...]


@dataclass(slots=True, kw_only=True)
class SimulatedReplica:
    """The state that a policy sees: what a coordinator would see, and no true length.

    running: live requests of each group
    live: those requests; what they have made counts the step that is under way
    longest_tokens: about, of the longest response so far, live or ended
    num_switches: switches of this stage so far
    finished: requests that have ended, in the order of their ends
    """

    footprint: int
    degree: int
    at_seconds: float
    running: list[int]
    live: Sequence[SimulatedLiveRequest]
    longest_tokens: int = 0
    num_switches: int = 0
    finished: list[SimulatedRequest] = field(default_factory=list)


PATIENCE: Final = 1.125

Policy = Callable[[SimulatedReplica], tuple[int, str] | None]
"""The degree to have now and why, or None to stay."""


def initial_batches(requests: Sequence[SimulatedRequest], *, footprint: int, degree: int) -> Batches:
    """One plan's requests at the start of a stage: each in the group with the fewest.

    The prefill has made the first token of each; a response of one token takes no step.

    `ValueError` for a response of no tokens.
    """
    for request in requests:
        if request.response_tokens < 1:
            raise ValueError(f"response_tokens: {request.response_tokens} of {request.rid} is not 1 or more")
    return Batches(
        degree=degree,
        left=np.array([[request.response_tokens - 1 for request in requests]], dtype=np.int64),
        contexts=np.array([[request.prompt_tokens + 1 for request in requests]], dtype=np.int64),
        groups=np.arange(len(requests))[None, :] % (footprint // degree),
        at_seconds=np.zeros(1),
    )


def simulate(
    requests: Sequence[SimulatedRequest],
    prices: Prices,
    policy: Policy,
    *,
    footprint: int,
    degree: int,
    clock: StepClock,
) -> SimulatedStage:
    """Run a stage that begins at `degree` under `policy`. `ValueError` for a response of no tokens."""
    batches: Batches | None = initial_batches(requests, footprint=footprint, degree=degree)
    switches: list[SimulatedSwitch] = []
    finished = [request for request in requests if request.response_tokens == 1]
    seconds = idle = 0.0
    while batches is not None:
        layout = _Layout(requests, batches, clock)
        answer = layout.follow(policy, finished, num_switches=len(switches))
        seconds = layout.at_seconds
        idle += layout.idle_rank_seconds()
        batches = None
        if answer is not None:
            batches, switch = _switch(layout, *answer, prices, [request.rid for request in requests])
            switches.append(switch)
    return SimulatedStage(seconds=seconds, idle_rank_seconds=idle, switches=tuple(switches))


class _Layout:
    """The part of a stage that runs in one layout, event by event."""

    def __init__(self, requests: Sequence[SimulatedRequest], batches: Batches, clock: StepClock) -> None:
        self.requests, self.batches, self.footprint = requests, batches, clock.footprint
        self.timeline = Timeline(batches, clock)
        self.at_seconds = float(batches.at_seconds[0])

    def follow(
        self, policy: Policy, finished: list[SimulatedRequest], *, num_switches: int
    ) -> tuple[int, str] | None:
        """Ask `policy` until it wants another layout (its answer) or all requests have ended."""
        groups, ends = self.batches.groups[0].tolist(), self.timeline.ends_at[0].tolist()
        coming = sorted(np.flatnonzero(self.batches.left[0]).tolist(), key=ends.__getitem__)
        running = [0] * (self.footprint // self.batches.degree)
        for index in coming:
            running[groups[index]] += 1
        replica = SimulatedReplica(
            footprint=self.footprint,
            degree=self.batches.degree,
            at_seconds=self.at_seconds,
            running=running,
            live=(),
            longest_tokens=max((request.response_tokens for request in finished), default=0),
            num_switches=num_switches,
            finished=finished,
        )
        # After a switch the policy is asked at the next event, not at once.
        is_moment = self.at_seconds == 0
        for place, index in enumerate(coming):
            before, until = self.at_seconds, ends[index]
            longest, grown = replica.longest_tokens, self.requests[index].response_tokens
            while self.at_seconds < until:
                replica.at_seconds, replica.live = self.at_seconds, _LiveRequests(self, coming, place)
                answer = policy(replica) if is_moment else None
                if answer is not None and answer[0] != replica.degree:
                    return answer
                self.at_seconds = min(until, PATIENCE * self.at_seconds or math.inf)
                share = (self.at_seconds - before) / (until - before)
                replica.longest_tokens = max(longest, round(longest + share * (grown - longest)))
                is_moment = True
            running[groups[index]] -= 1
            finished.append(self.requests[index])
        return None

    def made(self) -> IntArray:
        """Tokens that each request has made in this layout, the step under way included `[requests]`."""
        made: IntArray = self.timeline.boundary(np.array([self.at_seconds]))[0][0]
        return made

    def idle_rank_seconds(self) -> float:
        """What ranks had nothing to do, until now."""
        began, degree = float(self.batches.at_seconds[0]), self.batches.degree
        last = np.full(self.footprint // degree, began)
        np.maximum.at(last, self.batches.groups[0], self.timeline.ends_at[0])
        return degree * float(np.maximum(0.0, self.at_seconds - last).sum())


class _LiveRequests(Sequence[SimulatedLiveRequest]):
    """The live requests of a layout at this moment; made only when a policy looks at them."""

    def __init__(self, layout: _Layout, coming: list[int], place: int) -> None:
        self._layout, self._coming, self._place = layout, coming, place
        self._made: list[SimulatedLiveRequest] | None = None

    def __len__(self) -> int:
        return len(self._coming) - self._place

    def __iter__(self) -> Iterator[SimulatedLiveRequest]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> SimulatedLiveRequest: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[SimulatedLiveRequest]: ...

    def __getitem__(self, index: int | slice) -> SimulatedLiveRequest | Sequence[SimulatedLiveRequest]:
        return self._all()[index]

    def _all(self) -> list[SimulatedLiveRequest]:
        if self._made is None:
            batches, requests = self._layout.batches, self._layout.requests
            left = (batches.left[0] - self._layout.made()).tolist()
            groups = batches.groups[0].tolist()
            self._made = [
                SimulatedLiveRequest(
                    requests[index], groups[index], requests[index].response_tokens - left[index]
                )
                for index in sorted(self._coming[self._place :])
            ]
        return self._made


def _switch(
    layout: _Layout, degree: int, reason: str, prices: Prices, rids: Sequence[str]
) -> tuple[Batches, SimulatedSwitch]:
    before = layout.batches
    made, began = layout.timeline.boundary(np.array([layout.at_seconds]))
    left, contexts = before.left - made, before.contexts + made
    is_live = left > 0
    count = is_live.sum(axis=1).astype(np.float64)
    pause = prices.pause_seconds(before.degree, degree, count, (contexts * is_live).sum(axis=1) * 1.0)
    switch = SimulatedSwitch(
        at_seconds=float(began[0]),
        from_degree=before.degree,
        to_degree=degree,
        live_requests=int(count[0]),
        pause_seconds=float(pause[0]),
        reason=reason,
    )
    groups = _regrouped(before, degree, contexts[0], is_live[0], rids)
    after = Batches(degree=degree, left=left, contexts=contexts, groups=groups, at_seconds=began + pause)
    return after, switch


def _regrouped(
    before: Batches, degree: int, contexts: IntArray, is_live: npt.NDArray[np.bool_], rids: Sequence[str]
) -> IntArray:
    """As a live switch does: widening joins neighbours, narrowing spreads a group, most context first."""
    if degree > before.degree:
        joined: IntArray = before.groups * before.degree // degree
        return joined
    groups = before.groups.copy()
    share, load = before.degree // degree, dict[int, int]()
    for index in sorted(np.flatnonzero(is_live).tolist(), key=lambda index: (-contexts[index], rids[index])):
        old = int(groups[0, index])
        candidates = range(old * share, (old + 1) * share)
        groups[0, index] = min(candidates, key=lambda group: (load.get(group, 0), group))
        load[int(groups[0, index])] = load.get(int(groups[0, index]), 0) + int(contexts[index])
    return groups
