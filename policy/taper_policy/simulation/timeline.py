"""When the responses of one layout end, and how far each has come at any moment: many plans at once.

Each group decodes one token a step for all it has, on a clock of its own. With a group's requests
sorted by what they have left, its batch falls by one at each end; between two ends lies a *block*
of like steps, priced at its batch and at the mean context of its middle.

Arrays are `[plans, requests]` unless their shape is given. A plan is a row; rows are
independent. Where `left` is 0 there is no request.

Invariants (asserted by `tests/policy/simulation/test_timeline.py`):
- a request ends when its group has made all its steps, one by one;
- as time goes on no request has made less, and at its end each has made all;
- each row is what it would be alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.simulation.step_clock import StepClock

_ALL: Final = np.iinfo(np.int64).max
_Number = TypeVar("_Number", np.float64, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Requests in a uniform layout at one moment.

    left, contexts: tokens yet to make; tokens of prompt and response so far
    groups: of the layout, by index
    at_seconds: [plans]
    """

    degree: int
    left: IntArray
    contexts: IntArray
    groups: IntArray
    at_seconds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Blocks, group after group and each in the order of time; block i ends with one request.

    requests: flat index, into `[plans, requests]`, of the request that ends
    groups: beyond the last where there is no request
    done, until: steps that the group has made before the block, and after it
    batch, contexts: requests of a step; their mean context before the layout's first step
    start, end: seconds
    """

    requests: IntArray
    groups: IntArray
    done: IntArray
    until: IntArray
    batch: IntArray
    contexts: FloatArray
    start: FloatArray
    end: FloatArray


class Timeline:
    """When requests end, and how far they are, in one layout. `ends_at` is 0 where there is no request."""

    def __init__(self, batches: Batches, clock: StepClock) -> None:
        self._batches, self._clock = batches, clock
        self._num_groups = clock.footprint // batches.degree
        self._blocks = _blocks(batches, clock, self._num_groups)
        self.ends_at = np.zeros(batches.left.shape)
        self.ends_at.ravel()[self._blocks.requests] = np.where(self._blocks.batch > 0, self._blocks.end, 0.0)

    def boundary(self, at_seconds: FloatArray) -> tuple[IntArray, FloatArray]:
        """When every group has finished the step that is under way at `at_seconds` `[plans]`.

        Tokens that each request has made by then, and the time `[plans]`. No response ends in between.
        A timeline of one plan may be asked for many: plans that are still the same.
        """
        blocks, at = self._blocks, at_seconds[:, None]
        plans, places = np.nonzero((blocks.start <= at) & (at < blocks.end))
        rows, num = blocks.end.shape
        here = places + plans * num if rows > 1 else places
        start, done = blocks.start.take(here), blocks.done.take(here)
        span = _Span(
            self._clock, self._batches.degree, blocks.batch.take(here), blocks.contexts.take(here) + done
        )
        steps = span.steps_within(at_seconds.take(plans) - start)
        np.minimum(steps, blocks.until.take(here) - done - 1, out=steps)
        began = at_seconds.copy()
        np.maximum.at(began, plans, start + span.seconds(steps))
        # A group without a block has ended: all of its requests have made what they had left.
        made = np.full(len(at) * self._num_groups, _ALL)
        made[blocks.groups.take(here) + plans * self._num_groups] = done + steps
        cells = self._batches.groups + np.arange(len(at))[:, None] * self._num_groups
        return np.minimum(self._batches.left, made.take(cells)), began

    def switched(self, degree: int, at_seconds: FloatArray) -> tuple[Batches, FloatArray]:
        """The requests after a switch to `degree`, ordered at `at_seconds` `[plans]`, with groups joined.

        And when its pause begins `[plans]`: once every group has finished its step.
        """
        before = self._batches
        made, began = self.boundary(at_seconds)
        left, contexts = before.left - made, before.contexts + made
        is_live = left > 0
        live, tokens = is_live.sum(axis=1).astype(np.float64), (contexts * is_live).sum(axis=1) * 1.0
        pause = self._clock.prices.pause_seconds(before.degree, degree, live, tokens)
        groups = np.broadcast_to(before.groups * before.degree // degree, left.shape)
        after = Batches(degree=degree, left=left, contexts=contexts, groups=groups, at_seconds=began + pause)
        return after, began


@dataclass(frozen=True, slots=True)
class _Span:
    """Like steps from `contexts` on, elementwise `[many]`; the mean context grows by one a step."""

    clock: StepClock
    degree: int
    batch: IntArray
    contexts: FloatArray

    def seconds(self, steps: IntArray | FloatArray) -> FloatArray:
        found: FloatArray = steps * self.clock.seconds(self.degree, self.batch, self.contexts + 0.5 * steps)
        return found

    def steps_within(self, seconds: FloatArray) -> IntArray:
        """The fewest steps that take `seconds` or more."""
        enough = seconds - 1e-9
        steps = enough / self.clock.seconds(self.degree, self.batch, self.contexts)
        for _ in range(3):  # Newton's method: the last step's seconds are the slope
            slope = self.clock.seconds(self.degree, self.batch, self.contexts + steps)
            steps = np.maximum(0.0, steps - (self.seconds(steps) - enough) / slope)
        found = np.ceil(steps).astype(np.int64)
        found -= (found > 0) & (self.seconds(found - 1) >= enough)
        found += self.seconds(found) < enough
        return found


def _blocks(batches: Batches, clock: StepClock, num_groups: int) -> _Blocks:
    left = batches.left
    stride = int(left.max(initial=0)) + 1
    keys = np.where(left > 0, batches.groups, num_groups) * stride + left
    offsets = np.arange(len(left))[:, None] * left.shape[1]
    requests = np.argsort(keys, axis=1) + offsets
    groups, until = np.divmod(keys.take(requests), stride)
    first, last = _runs(groups)
    at = np.arange(left.shape[1])
    is_first = first == at
    done = np.where(is_first, 0, _shifted(until))
    batch = np.where(groups < num_groups, last - at + 1, 0)
    contexts = batches.contexts.take(requests)
    total = np.cumsum(contexts, axis=1)
    mean = (total.take(last + offsets) - total + contexts) / (last - at + 1)
    steps = until - done
    seconds = steps * clock.seconds(batches.degree, batch, mean + done + 0.5 * steps)
    elapsed = np.cumsum(seconds, axis=1)
    began = batches.at_seconds[:, None]
    end = elapsed - (elapsed - seconds).take(first + offsets) + began
    return _Blocks(
        requests=requests,
        groups=groups,
        done=done,
        until=until,
        batch=batch,
        contexts=mean,
        start=np.where(is_first, began, _shifted(end)),
        end=end,
    )


def _runs(values: IntArray) -> tuple[IntArray, IntArray]:
    """Of each place in a row: the first and the last place of its run of equal values."""
    num = values.shape[1]
    at = np.arange(num)
    changes = np.ones((len(values), num + 1), dtype=np.bool_)
    np.not_equal(values[:, 1:], values[:, :-1], out=changes[:, 1:-1])
    first = np.maximum.accumulate(np.where(changes[:, :-1], at, 0), axis=1)
    last = np.minimum.accumulate(np.where(changes[:, 1:], at, num)[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _shifted(values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Each place's value of the place before; the first place's is arbitrary."""
    return np.concatenate((values[:, :1], values[:, :-1]), axis=1)
