"""Prices each layout to the end of the stage and chooses one: the core of the predictor, pure.

For each uniform layout the expected seconds to the end of the stage are computed over the forecast's
scenarios: stay in the present layout, or switch to another one now with the pause included. Later
widenings are allowed in both cases. A later widening happens when the live count has fallen to a
milestone; which one is chosen by backward induction on the scenarios' mean, so that no choice depends on
lengths that are not yet known.

A switch waits until the last group has finished its step. That wait is known for a switch now; for a
later one the mean is taken, with the groups out of step.

A switch is chosen only if now is the best time for it, its expected gain over staying to the end of the stage
exceeds the margin, and enough scenarios gain.

Invariants (asserted by `tests/policy/decision/test_pricing.py`):
- under its own model the choice is never slower than staying to the end;
- equal inputs give equal choices, whatever the order of the requests;
- it never raises for a snapshot and a forecast that agree: what it cannot price, it does not choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.decision.scenarios import Scenarios, StepSeconds


class Prices(Protocol):
    """The interface of a profile: step times of each degree, and the duration of a switch."""

    def steps(self, degree: int) -> StepSeconds:
        """The step times of a group of `degree` ranks."""

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: FloatArray, context_tokens: FloatArray
    ) -> FloatArray:
        """Seconds of a switch of so many live requests with so many context tokens in all, elementwise.

        From the moment on when all groups have stopped.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSettings:
    """How large a predicted gain must be: more than `margin_seconds` plus `margin_share` of the time that
    staying takes, in at least the share `confidence` of the scenarios."""

    margin_seconds: float = 0.02
    margin_share: float = 0.01
    confidence: float = 0.75

    def margin(self, staying_seconds: float) -> float:
        return self.margin_seconds + self.margin_share * staying_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A layout to have from now on: expected seconds to the end of the stage, and its 80 % interval.

    `pause_seconds` is part of `seconds`. `next_degree` and `next_at_requests` describe the widening
    that is planned for later, if any.
    """

    degree: int
    seconds: float
    low_seconds: float
    high_seconds: float
    pause_seconds: float
    next_degree: int | None = None
    next_at_requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen layout, the reason, and the prices of all layouts. To stay, `degree` is the present one.

    `gain_seconds` is what the best other layout saves over staying to the end, `gain_share` the share
    of the scenarios in which it does.
    """

    degree: int
    reason: str
    gain_seconds: float = 0.0
    gain_share: float = 0.0
    options: tuple[Option, ...] = ()

    def option(self, degree: int) -> Option | None:
        """The price of a layout; None if nothing could be priced."""
        return next((option for option in self.options if option.degree == degree), None)


@dataclass(frozen=True, slots=True)
class _Continuation:
    """The rest of a stage from a layout on: seconds of its blocks `[scenarios, blocks]`, when to leave it.

    At each milestone `[blocks + 1]`: `rest` is the mean seconds to the end of the best way on,
    `saved` what widening there saves on average, and `targets` to which degree.
    """

    seconds: FloatArray
    rest: FloatArray
    saved: FloatArray
    targets: IntArray

    def leaves(self, begin: int) -> tuple[int, int] | None:
        """The milestone, from `begin` on, at which to widen, and to which degree; None to stay."""
        at = begin + int(self.saved[begin:].argmax())
        return (at, int(self.targets[at])) if self.saved[at] > 0 else None


def choose(
    scenarios: Scenarios,
    prices: Prices,
    settings: PredictorSettings,
    *,
    degree: int,
    degrees: Sequence[int],
    footprint: int,
    boundary_seconds: float | None = None,
) -> Choice:
    """The best layout now, for a stage whose rest may be any of `scenarios`.

    `boundary_seconds`: how long the first group to stop would wait for the last, now; None where unknown.
    """
    pauses = _Pauses(scenarios, prices, footprint, degree, boundary_seconds)
    continuations = _continuations(scenarios, prices, pauses, degrees, footprint)
    grouped = scenarios.seconds_as_grouped(prices.steps(degree))
    staying = _continuation(grouped, degree, continuations, pauses, first=1)
    ways = continuations | {degree: staying}
    plans = {
        other: _plan_seconds(other, ways[other], continuations, pauses, present=degree) for other in degrees
    }
    options = _options(plans, ways, scenarios, pauses, degree)
    return _weigh(plans, grouped.sum(axis=1), options, settings, degree, int(scenarios.counts[0]))


def choose_first(
    scenarios: Scenarios, prices: Prices, settings: PredictorSettings, *, degrees: Sequence[int]
) -> Choice:
    """The layout to begin in, for degrees up to the footprint. The groups of `scenarios` are those of the
    narrowest of them; in another layout they are `merged`, as requests that are dealt in turn would be.

    No switch is needed for any of them. The fastest is taken, later widenings included, if it
    beats the best static layout by the margin. Confidence is not required: a widening that
    is only planned will be decided when it is due.
    """
    footprint = degrees[-1]
    pauses = _Pauses(scenarios, prices, footprint)
    continuations = _continuations(scenarios, prices, pauses, degrees, footprint)
    plans, ways, kept = {}, {}, {}
    for degree in degrees:
        dealt = scenarios.merged(footprint // degree).seconds_as_grouped(prices.steps(degree))
        ways[degree] = _continuation(dealt, degree, continuations, pauses)
        plans[degree] = _plan_seconds(degree, ways[degree], continuations, pauses, present=degree)
        kept[degree] = dealt.sum(axis=1)
    steady = min(degrees, key=lambda degree: (float(kept[degree].mean()), degree))
    fastest = min(degrees, key=lambda degree: (float(plans[degree].mean()), degree))
    staying, seconds = float(kept[steady].mean()), float(plans[fastest].mean())
    share = float((kept[steady] > plans[fastest]).mean())
    is_enough = staying - seconds > settings.margin(staying)
    summary = f"{scenarios.counts[0]} expected: degree {fastest} {seconds:.2f} s"
    return Choice(
        degree=fastest if is_enough else steady,
        reason=f"{summary}, static degree {steady} {staying:.2f} s",
        gain_seconds=staying - seconds,
        gain_share=share,
        options=_options(plans, ways, scenarios, pauses, None),
    )


def _continuations(
    scenarios: Scenarios, prices: Prices, pauses: _Pauses, degrees: Sequence[int], footprint: int
) -> dict[int, _Continuation]:
    """The continuation from each degree on, with the requests spread evenly."""
    continuations: dict[int, _Continuation] = {}
    for degree in sorted(degrees, reverse=True):
        even = scenarios.seconds_if_even(prices.steps(degree), num_groups=footprint // degree)
        continuations[degree] = _continuation(even, degree, continuations, pauses)
    return continuations


class _Pauses:
    """Mean seconds of a switch at each milestone, for each pair of degrees, with the wait for the boundary.

    `boundary_seconds` is that wait in the present layout, of degree `present`, at the first milestone.
    """

    def __init__(
        self,
        scenarios: Scenarios,
        prices: Prices,
        footprint: int,
        present: int | None = None,
        boundary_seconds: float | None = None,
    ) -> None:
        self._requests = scenarios.counts.astype(np.float64)
        self._context = scenarios.live_context_tokens.mean(axis=0)
        self._prices, self._footprint = prices, footprint
        self._present, self._boundary_seconds = present, boundary_seconds
        self._waits: dict[int, FloatArray] = {}
        self._known: dict[tuple[int, int], FloatArray] = {}

    def of(self, from_degree: int, to_degree: int) -> FloatArray:
        pair = (from_degree, to_degree)
        if pair not in self._known:
            pauses = self._prices.pause_seconds(*pair, self._requests, self._context)
            self._known[pair] = pauses + self._wait(from_degree)
        return self._known[pair]

    def _wait(self, degree: int) -> FloatArray:
        if degree not in self._waits:
            wait = self._mean_wait(degree)
            if degree == self._present and self._boundary_seconds is not None:
                wait[0] = self._boundary_seconds
            self._waits[degree] = wait
        return self._waits[degree]

    def _mean_wait(self, degree: int) -> FloatArray:
        """The mean range of as many uniform numbers as groups are busy: each is anywhere in its step."""
        num_groups = self._footprint // degree
        busy = np.minimum(num_groups, self._requests)
        batch = np.maximum(1.0, np.ceil(self._requests / num_groups))
        context = self._context / np.maximum(1.0, self._requests)
        step = self._prices.steps(degree).seconds(batch, context, num_groups)
        wait: FloatArray = np.where(busy > 1, (busy - 1) / (busy + 1), 0.0) * step
        return wait


def _continuation(
    seconds: FloatArray, degree: int, others: Mapping[int, _Continuation], pauses: _Pauses, *, first: int = 0
) -> _Continuation:
    """The best way on from `degree`, whose blocks take `seconds` `[scenarios, blocks]`, at each milestone.

    It may widen to those of `others` that are wider; `first` is the earliest milestone for that.
    """
    mean = seconds.mean(axis=0)
    alone = np.concatenate([mean[::-1].cumsum()[::-1], [0.0]])
    # What is saved by widening at each milestone; at the last one nothing is left to save.
    saved, targets = np.zeros(len(alone)), np.full(len(alone), degree)
    for other, continuation in others.items():
        if other <= degree:
            continue
        candidate = alone - pauses.of(degree, other) - continuation.rest
        better = candidate > saved
        saved, targets = np.where(better, candidate, saved), np.where(better, other, targets)
    saved[:first] = 0.0
    best = np.maximum.accumulate(saved[::-1])[::-1]
    return _Continuation(seconds, alone - best, saved, targets)


def _plan_seconds(
    degree: int,
    way: _Continuation,
    continuations: Mapping[int, _Continuation],
    pauses: _Pauses,
    *,
    present: int,
) -> FloatArray:
    """Seconds of each scenario `[scenarios]` under the plan of going on by `way` from now."""
    total = np.zeros(len(way.seconds))
    if degree != present:
        total += pauses.of(present, degree)[0]
    begin = 0
    while (leaves := way.leaves(begin)) is not None:
        at, target = leaves
        total += way.seconds[:, begin:at].sum(axis=1) + pauses.of(degree, target)[at]
        degree, way, begin = target, continuations[target], at
    rest: FloatArray = total + way.seconds[:, begin:].sum(axis=1)
    return rest


def _options(
    plans: Mapping[int, FloatArray],
    ways: Mapping[int, _Continuation],
    scenarios: Scenarios,
    pauses: _Pauses,
    present: int | None,
) -> tuple[Option, ...]:
    """The price of each of `plans`. `present` is the present degree, None before a stage begins."""
    seconds = np.stack(list(plans.values()))
    mean, (low, high) = seconds.mean(axis=1).tolist(), np.quantile(seconds, (0.1, 0.9), axis=1).tolist()
    options = []
    for index, degree in enumerate(plans):
        pause = 0.0 if present is None or degree == present else float(pauses.of(present, degree)[0])
        leaves = ways[degree].leaves(0)
        options.append(
            Option(
                degree=degree,
                seconds=mean[index],
                low_seconds=low[index],
                high_seconds=high[index],
                pause_seconds=pause,
                next_degree=leaves[1] if leaves else None,
                next_at_requests=int(scenarios.counts[leaves[0]]) if leaves else None,
            )
        )
    return tuple(options)


def _weigh(
    plans: Mapping[int, FloatArray],
    staying_for_good: FloatArray,
    options: Sequence[Option],
    settings: PredictorSettings,
    degree: int,
    num_live: int,
) -> Choice:
    """The best other layout if now is the best time for it, and it is enough faster than staying to the end.

    A margin over waiting for the same switch would put it off again and again: a moment later it is
    nearly as good. Over waiting for another one the margin is due.
    """
    by_degree = {option.degree: option for option in options}
    waiting = by_degree[degree]
    others = [option for option in options if option.degree != degree]
    if not others:
        return Choice(degree=degree, reason="there is no other layout", options=tuple(options))
    best = min(others, key=lambda option: (option.seconds, option.degree))
    staying = float(staying_for_good.mean())
    gain, ahead = staying - best.seconds, waiting.seconds - best.seconds
    share = float((staying_for_good > plans[best.degree]).mean())
    summary = f"{num_live} live: degree {best.degree} {best.seconds:.2f} s, staying {staying:.2f} s"
    margin = settings.margin(staying)
    target = degree
    if gain <= margin:
        reason = f"{summary}: the gain does not exceed the margin of {margin:.2f} s"
    elif share < settings.confidence:
        reason = f"{summary}: only {share:.0%} of the scenarios gain"
    elif ahead <= (0.0 if waiting.next_degree == best.degree else margin):
        waits = f"degree {waiting.next_degree} at {waiting.next_at_requests} live, {waiting.seconds:.2f} s"
        reason = f"{summary}: waits for {waits}"
    else:
        reason, target = f"{summary}: {gain:.2f} s gained, in {share:.0%} of the scenarios", best.degree
    return Choice(degree=target, reason=reason, gain_seconds=gain, gain_share=share, options=tuple(options))
