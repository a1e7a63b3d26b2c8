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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from taper_policy.arrays import IntArray
from taper_policy.decision.decision import Decision
from taper_policy.decision.pricing import Prices
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Batches, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request with its true length, which no policy may look at. `prompt` names its siblings."""

    rid: str
    prompt: str
    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSwitch:
    """A switch that was made, at `at_seconds` of the stage."""

    at_seconds: float
    from_degree: int
    to_degree: int
    pause_seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStage:
    """A stage after its simulation."""

    seconds: float
    switches: tuple[SimulatedSwitch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReplica:
    """What a policy sees: what a coordinator would see, and no true length.

    snapshot: without its live requests. Its longest response is about the longest so far, live or ended
    live: lists the live requests; what they have made counts the step that is under way
    finished: requests that have ended, in the order of their ends
    """

    snapshot: Snapshot
    live: Callable[[], tuple[LiveRequest, ...]]
    finished: Sequence[SimulatedRequest] = ()


PATIENCE: Final = 1.125

Policy = Callable[[SimulatedReplica], Decision | None]
"""The layout to have now, or None to stay."""


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


def clock_of(stages: Iterable[Sequence[SimulatedRequest]], prices: Prices, *, footprint: int) -> StepClock:
    """A clock for all batches and contexts of stages of these requests."""
    batch, context = 1, 1
    for stage in stages:
        batch = max(batch, len(stage))
        context = max(context, *(request.prompt_tokens + request.response_tokens for request in stage))
    return StepClock(prices, footprint=footprint, max_batch=batch, max_context=context)


def simulate(
    requests: Sequence[SimulatedRequest], policy: Policy, clock: StepClock, *, degree: int
) -> SimulatedStage:
    """Run a stage that begins at `degree` under `policy`. `ValueError` for a response of no tokens."""
    batches: Batches | None = initial_batches(requests, footprint=clock.footprint, degree=degree)
    switches: list[SimulatedSwitch] = []
    finished = [request for request in requests if request.response_tokens == 1]
    seconds = 0.0
    while batches is not None:
        layout = _Layout(requests, batches, clock)
        decision = layout.follow(policy, finished, num_switches=len(switches))
        seconds = layout.at_seconds
        batches = None
        if decision is not None:
            batches, switch = _switch(layout, decision)
            switches.append(switch)
    return SimulatedStage(seconds=seconds, switches=tuple(switches))


class _Layout:
    """The part of a stage that runs in one layout, event by event."""

    def __init__(self, requests: Sequence[SimulatedRequest], batches: Batches, clock: StepClock) -> None:
        self.requests, self.batches, self.footprint = requests, batches, clock.footprint
        self.timeline = Timeline(batches, clock)
        self.at_seconds = float(batches.at_seconds[0])

    def follow(
        self, policy: Policy, finished: list[SimulatedRequest], *, num_switches: int
    ) -> Decision | None:
        """Ask `policy` until it wants another layout (its decision) or all requests have ended."""
        groups, ends = self.batches.groups[0].tolist(), self.timeline.ends_at[0].tolist()
        coming = sorted(np.flatnonzero(self.batches.left[0]).tolist(), key=ends.__getitem__)
        running = [0] * (self.footprint // self.batches.degree)
        for index in coming:
            running[groups[index]] += 1
        longest = max((request.response_tokens for request in finished), default=0)
        # After a switch the policy is asked at the next event, not at once.
        is_moment = self.at_seconds == 0
        for place, index in enumerate(coming):
            before, until = self.at_seconds, ends[index]
            shortest, grown = longest, self.requests[index].response_tokens
            while self.at_seconds < until:
                snapshot = Snapshot(
                    at_seconds=self.at_seconds,
                    footprint=self.footprint,
                    degree=self.batches.degree,
                    running=tuple(running),
                    longest_decoded_tokens=longest,
                    switches_done_in_stage=num_switches,
                )
                live = partial(self._live, coming, place)
                replica = SimulatedReplica(snapshot=snapshot, live=live, finished=finished)
                decision = policy(replica) if is_moment else None
                if decision is not None and decision.degree != self.batches.degree:
                    return decision
                self.at_seconds = min(until, PATIENCE * self.at_seconds or math.inf)
                share = (self.at_seconds - before) / (until - before)
                longest = max(shortest, round(shortest + share * (grown - shortest)))
                is_moment = True
            running[groups[index]] -= 1
            finished.append(self.requests[index])
        return None

    def _live(self, coming: list[int], place: int) -> tuple[LiveRequest, ...]:
        """The requests from `place` on in the order of their ends, as they are now."""
        left = self.batches.left - self.timeline.boundary(np.array([self.at_seconds]))[0]
        groups = self.batches.groups[0].tolist()
        return tuple(
            LiveRequest(
                rid=self.requests[index].rid,
                prompt=self.requests[index].prompt,
                group=groups[index],
                prompt_tokens=self.requests[index].prompt_tokens,
                decoded_tokens=self.requests[index].response_tokens - int(left[0, index]),
            )
            for index in sorted(coming[place:])
        )


def _switch(layout: _Layout, decision: Decision) -> tuple[Batches, SimulatedSwitch]:
    before, degree = layout.batches, decision.degree
    after, began = layout.timeline.switched(degree, np.array([layout.at_seconds]))
    if degree < before.degree:
        after = replace(after, groups=_spread(before, after, [request.rid for request in layout.requests]))
    return after, SimulatedSwitch(
        at_seconds=float(began[0]),
        from_degree=before.degree,
        to_degree=degree,
        pause_seconds=float(after.at_seconds[0] - began[0]),
        reason=decision.reason,
    )


def _spread(before: Batches, after: Batches, rids: Sequence[str]) -> IntArray:
    """As a live switch that narrows: it spreads each group, most context first."""
    groups, contexts = before.groups.copy(), after.contexts[0]
    share, load = before.degree // after.degree, dict[int, int]()
    live = np.flatnonzero(after.left[0]).tolist()
    for index in sorted(live, key=lambda index: (-contexts[index], rids[index])):
        old = int(groups[0, index])
        candidates = range(old * share, (old + 1) * share)
        groups[0, index] = min(candidates, key=lambda group: (load.get(group, 0), group))
        load[int(groups[0, index])] = load.get(int(groups[0, index]), 0) + int(contexts[index])
    return groups
