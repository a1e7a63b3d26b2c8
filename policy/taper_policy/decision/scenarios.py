"""What the rest of a stage may look like: scenarios of its live requests, cut at falling live counts.

A scenario gives each live request its remaining tokens. All requests decode one token a
step, so with them sorted the live count falls by one at each of them. The time to the end
is cut at *milestones*, live counts from all down to none: each of the last `FINE` counts,
fewer above, where a step's cost is smooth. A *block* lies between two milestones; within
it a layout's step is priced once, at the block's mean batch and mean context.

In the present layout requests stay in their groups, and the slowest group prices the stage. In any other
layout the live requests are spread evenly.

Invariants (asserted by `tests/policy/decision/test_scenarios.py`):
- with one group and all counts fine, the seconds equal a simulation step by step;
- does not depend on the order of requests or on the numbering of groups;
- no layout's seconds fall when a request has more tokens to make, if larger batches and
  longer contexts never take less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from taper_policy.arrays import FloatArray, IntArray

FINE = 32
RATIO = 0.92


class StepSeconds(Protocol):
    """Seconds of a decode step of one group, for arrays of batches and mean contexts."""

    def seconds(self, batch: FloatArray, context_tokens: FloatArray, busy_groups: int) -> FloatArray:
        """Elementwise; a batch of 0 takes nothing."""


def milestones(num_live: int) -> IntArray:
    """Live counts at which the rest of a stage is cut: `num_live` down to 0, without repeats."""
    counts = [num_live]
    while counts[-1] > FINE:
        counts.append(max(FINE, int(counts[-1] * RATIO)))
    counts += range(counts[-1] - 1, -1, -1)
    return np.array(counts, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Scenarios:
    """Scenarios of the rest of a stage, summed over blocks.

    `counts` `[blocks + 1]` are the milestones, and `live_context_tokens` `[scenarios, blocks
    + 1]` the sum of the live contexts there. `steps` `[scenarios, blocks]` is how many tokens
    a request makes that lives through a block. Of each group of the present layout, `[groups,
    scenarios, blocks]`: `batch_tokens`, the tokens made in a block, and `context_tokens`, the
    live contexts summed over its steps.
    """

    counts: IntArray
    steps: FloatArray
    batch_tokens: FloatArray
    context_tokens: FloatArray
    live_context_tokens: FloatArray

    @classmethod
    def of(
        cls, remaining: IntArray, contexts: Sequence[int], groups: Sequence[int], *, num_groups: int
    ) -> Scenarios:
        """Scenarios `remaining` `[scenarios, live]` of requests with `contexts` tokens, in `groups`.

        Raises `ValueError` for a remaining count below 1 and a group out of range.
        """
        num_live = remaining.shape[1]
        owner, context = np.asarray(groups, dtype=np.int64), np.asarray(contexts, dtype=np.float64)
        if remaining.size and remaining.min() < 1:
            raise ValueError(f"remaining: {remaining.min()} is not 1 or more")
        if num_live and (owner.min() < 0 or owner.max() >= num_groups):
            raise ValueError(f"groups: {sorted(set(groups))} are not all in [0, {num_groups})")
        counts = milestones(num_live)
        # Of those that end at once the one with the longest context counts as the last.
        order = np.argsort(remaining * (int(context.max(initial=0)) + 1) + context.astype(np.int64), axis=1)
        ends = np.take_along_axis(remaining, order, axis=1).astype(np.float64)
        ended = num_live - counts
        cuts = np.zeros((len(remaining), len(counts)))
        cuts[:, 1:] = ends[:, ended[1:] - 1]
        tokens, context_steps, live_contexts = _progress_until(
            cuts, ends, context[order], owner[order], ended, num_groups
        )
        return cls(
            counts=counts,
            steps=np.diff(cuts, axis=1),
            batch_tokens=np.diff(tokens, axis=2),
            context_tokens=np.diff(context_steps, axis=2),
            live_context_tokens=live_contexts.sum(axis=0),
        )

    def merged(self, num_groups: int) -> Scenarios:
        """The same with fewer groups: those whose index is equal modulo `num_groups` are one."""
        tokens, contexts = (
            part.reshape(-1, num_groups, *part.shape[1:]).sum(axis=0)
            for part in (self.batch_tokens, self.context_tokens)
        )
        return replace(self, batch_tokens=tokens, context_tokens=contexts)

    def seconds_as_grouped(self, steps: StepSeconds) -> FloatArray:
        """Seconds of each block `[scenarios, blocks]` in the present layout: the slowest group's."""
        seconds = self._priced(steps, self.batch_tokens, self.context_tokens, len(self.batch_tokens))
        slowest = seconds.sum(axis=2).argmax(axis=0)
        chosen: FloatArray = np.take_along_axis(seconds, slowest[None, :, None], axis=0)[0]
        return chosen

    def seconds_if_even(self, steps: StepSeconds, *, num_groups: int) -> FloatArray:
        """Seconds of each block `[scenarios, blocks]` in a layout of `num_groups` groups of like size."""
        return self._priced(
            steps,
            self.batch_tokens.sum(axis=0),
            self.context_tokens.sum(axis=0),
            num_groups,
            share=num_groups,
        )

    def _priced(
        self,
        steps: StepSeconds,
        batch_tokens: FloatArray,
        context_tokens: FloatArray,
        busy: int,
        share: int = 1,
    ) -> FloatArray:
        live = batch_tokens / np.maximum(1.0, self.steps)
        context = context_tokens / np.maximum(1.0, batch_tokens)
        batch = np.ceil(live / share - 1e-9) if share > 1 else live
        # A group with less than one request on average has ended within the block.
        steps_made = self.steps * np.minimum(1.0, live)
        return steps_made * steps.seconds(np.maximum(1.0, batch), context, busy)


def _progress_until(
    cuts: FloatArray,
    ends: FloatArray,
    contexts: FloatArray,
    owners: IntArray,
    ended: IntArray,
    num_groups: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What the requests of each group have decoded by each milestone, `[groups, scenarios, milestones]`.

    Tokens; the live contexts, which grow by one a step, summed over the steps; the live contexts. A milestone
    comes after `cuts` `[scenarios, milestones]` steps, when `ended` `[milestones]` requests have ended.
    `ends`, `contexts`, `owners` (groups) `[scenarios, live]`, soonest end first.
    """
    shape = (num_groups, *cuts.shape)
    milestone = np.searchsorted(ended, np.arange(ends.shape[1]), side="right")
    cells = (owners * shape[1] + np.arange(shape[1])[:, None]) * shape[2] + milestone

    def until(values: FloatArray | None) -> FloatArray:
        weights = None if values is None else values.ravel()
        sums = np.bincount(cells.ravel(), weights, minlength=num_groups * cuts.size)
        return np.cumsum(sums.reshape(shape), axis=2, dtype=np.float64)

    num_ended, ended_contexts = until(None), until(contexts)
    live, live_contexts = num_ended[..., -1:] - num_ended, ended_contexts[..., -1:] - ended_contexts
    context_steps = until(ends * (contexts + 0.5 * ends)) + cuts * (live_contexts + 0.5 * live * cuts)
    return until(ends) + live * cuts, context_steps, live_contexts + live * cuts
