"""What a profiler measures: the cells of the step surface, and the loads under which it switches. Pure.

Contexts go up in equal ratios to the longest that a request can have and still be measured,
batches up to the most that a group serves. What does not fit a group's KV memory is left
out at the long end of a batch's line, as `surface` wants it.

Invariants (asserted by `tests/rollout/profiling/test_grid.py`):
- every cell fits: its requests, and their tokens while they are measured;
- each batch has the contexts of the batch below it, or fewer of them from the left;
- the prompts of a prefill fit their contexts, and are its tokens together;
- a tour makes each ordered pair of degrees once and ends where it began.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from taper_policy.profile.kv_choice import KvMode

# Steps right after a prefill or a switch: caches are cold, ranks not yet in step.
SKIPPED_STEPS: Final = 2
# The first requests decode while the last ones of a batch still arrive.
ARRIVAL_TOKENS: Final = 48
# SGLang keeps the last positions of a context, and some memory, to itself.
CONTEXT_MARGIN_TOKENS: Final = 8
FILL_SHARE: Final = 0.9
STEPS_BEFORE_SWITCH: Final = 3
# What a request makes from one switch to the next: those steps, and what passes until it is known.
TOKENS_A_SWITCH: Final = 32
# SGLang cuts longer prefills into chunks.
MOST_PREFILL_TOKENS: Final = 4096
# Of the contexts of two loads, at least.
LOAD_CONTEXTS_RATIO: Final = 4
MEASURED_KV_MODES: Final[tuple[KvMode, ...]] = ("migrate", "recompute")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapacity:
    """What a replica can serve.

    max_running_requests, kv_tokens: of one group of the first degree; wider ones have more in proportion
    """

    footprint: int
    degrees: tuple[int, ...]
    max_running_requests: int
    kv_tokens: int
    context_tokens: int

    def requests(self, degree: int) -> int:
        """Most requests that a group of a degree runs at once."""
        return self.max_running_requests * degree // self.degrees[0]

    def tokens(self, degree: int) -> int:
        """Tokens that a group of a degree may hold."""
        return int(FILL_SHARE * self.kv_tokens * degree / self.degrees[0])


class Place(NamedTuple):
    """A cell to measure: `busy_groups` groups of a degree, each with `batch` requests of a mean context."""

    degree: int
    busy_groups: int
    batch: int
    context_tokens: int


class Load(NamedTuple):
    """Requests of a context that live through a tour of switches."""

    requests: int
    context_tokens: int
    kv: KvMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How finely to measure.

    batches: those of them that a group can have; its most is always among them
    context_ratio: of neighbouring contexts, at most
    longest_context, most_cell_tokens: bounds of what is prefilled for a cell
    steps: of a visit to a cell, over its busy groups
    visits: of a cell, at most; it has no further one once its interval is narrow
    least_visits: of a cell. Steps of one visit are alike: what disturbs a machine for some seconds
        moves all of them, and their interval does not know
    prefills: of each degree; sizes in equal ratios
    switch_requests: live requests of the tours
    most_recomputed_tokens: of a tour whose KV is recomputed
    tours: under each load
    """

    batches: tuple[int, ...]
    shortest_context: int = 32
    context_ratio: float
    longest_context: int
    most_cell_tokens: int
    steps: int
    visits: int
    least_visits: int
    prefill_sizes: int
    prefill_repeats: int
    switch_requests: tuple[int, ...]
    most_recomputed_tokens: int
    tours: int

    @property
    def visit_tokens(self) -> int:
        """Tokens that a request may make in a visit."""
        return SKIPPED_STEPS + self.steps + ARRIVAL_TOKENS

    @property
    def lead_tokens(self) -> int:
        """By how much a prompt is shorter than its cell's context, which is the mean over the visit."""
        return SKIPPED_STEPS + self.steps // 2

    def contexts(self, capacity: EngineCapacity) -> tuple[int, ...]:
        """Ascending. Raises `ValueError` where no request can be measured."""
        limit_tokens = (
            min(capacity.context_tokens, capacity.tokens(capacity.degrees[0])) - CONTEXT_MARGIN_TOKENS
        )
        longest = min(self.longest_context, limit_tokens - self.visit_tokens + self.lead_tokens)
        if longest <= self.lead_tokens:
            raise ValueError(f"a context of {limit_tokens} tokens is too short to measure a decode step in")
        shortest = min(self.shortest_context, longest)
        count = 1 + math.ceil(round(math.log(longest / shortest, self.context_ratio), 6))
        contexts = [round(number) for number in ratios(shortest, longest, count)]
        # Samples are told apart by their contexts, which grow while they are taken.
        while len(contexts) > 1 and contexts[1] - contexts[0] < self.steps + ARRIVAL_TOKENS:
            contexts = [round(number) for number in ratios(shortest, longest, len(contexts) - 1)]
        return tuple(contexts)

    def places(self, capacity: EngineCapacity) -> list[Place]:
        """All cells, ascending."""
        contexts = self.contexts(capacity)
        return [
            Place(degree, busy, batch, context)
            for degree in capacity.degrees
            for busy in sorted({1, capacity.footprint // degree})
            for batch in self._batches(capacity, degree)
            for context in contexts
            if self._fits(capacity, degree, batch, context)
        ]

    def _batches(self, capacity: EngineCapacity, degree: int) -> list[int]:
        most = capacity.requests(degree)
        return sorted({batch for batch in self.batches if batch < most} | {min(most, self.batches[-1])})

    def _fits(self, capacity: EngineCapacity, degree: int, batch: int, context: int) -> bool:
        needed = batch * (context - self.lead_tokens + self.visit_tokens)
        return needed <= capacity.tokens(degree) and batch * context <= max(
            self.most_cell_tokens, self.shortest_context * batch
        )

    def prefill_tokens(self, capacity: EngineCapacity) -> tuple[int, ...]:
        """Sizes of the prefills to measure: a stage begins with one of many prompts."""
        longest = min(MOST_PREFILL_TOKENS, self.longest_context, capacity.tokens(capacity.degrees[0]) // 2)
        longest = min(longest, max(1, capacity.max_running_requests - 1) * _prompt_tokens(capacity))
        return tuple(round(number) for number in ratios(min(16, longest), longest, self.prefill_sizes))

    def loads(self, capacity: EngineCapacity) -> list[Load]:
        """The loads of the tours: few and many requests of a short and of the longest context."""
        longest = min(
            self.contexts(capacity)[-1],
            capacity.context_tokens - CONTEXT_MARGIN_TOKENS - tour_tokens(capacity),
        )
        # With one context, what a request costs and what its bytes cost could not be told apart.
        shortest = min(self.shortest_context, longest // LOAD_CONTEXTS_RATIO)
        return [
            Load(requests, context, kv)
            for _ in range(self.tours)
            for kv in MEASURED_KV_MODES
            for requests in self.switch_requests
            for context in sorted({shortest, longest})
            if context > 0 and self._can_tour(capacity, requests, context)
            if kv == "migrate" or requests * context <= self.most_recomputed_tokens
        ]

    def _can_tour(self, capacity: EngineCapacity, requests: int, context: int) -> bool:
        """Also in the narrowest layout, where a group may have one request more than another."""
        base = capacity.degrees[0]
        each = -(-requests // (capacity.footprint // base))
        needed = (each + 1) * (context + tour_tokens(capacity))
        return each < capacity.requests(base) and needed <= capacity.tokens(base)


def prefill_prompts(capacity: EngineCapacity, tokens: int) -> list[int]:
    """Lengths of the fewest prompts, alike as can be, that make up a prefill of `tokens` tokens."""
    count = -(-tokens // _prompt_tokens(capacity))
    return [(tokens + index) // count for index in range(count)]


def _prompt_tokens(capacity: EngineCapacity) -> int:
    """Of the longest prompt."""
    return capacity.context_tokens - CONTEXT_MARGIN_TOKENS


def ratios(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from `first` to `last` in equal ratios."""
    if count < 2 or first >= last:
        return [last]
    return [first * (last / first) ** (index / (count - 1)) for index in range(count)]


def tour(degrees: Sequence[int]) -> Iterator[int]:
    """The degrees to switch to, one after the other, from the first and back to it."""
    first, others = degrees[0], degrees[1:]
    for index, other in enumerate(others):
        yield other
        if index == 0:
            yield from tour(others)
        yield first


def tour_tokens(capacity: EngineCapacity) -> int:
    """Tokens that a request may make on a tour."""
    pairs = len(capacity.degrees) * (len(capacity.degrees) - 1)
    return ARRIVAL_TOKENS + pairs * TOKENS_A_SWITCH


# For the start of a run: a rough picture in well under a minute.
QUICK: Final = Grid(
    batches=(1, 2, 3, 4, 8, 16, 32, 64, 128, 256),
    context_ratio=10.0,
    longest_context=1024,
    most_cell_tokens=2048,
    steps=8,
    visits=1,
    least_visits=1,
    prefill_sizes=6,
    prefill_repeats=1,
    switch_requests=(1, 4, 12),
    most_recomputed_tokens=1024,
    tours=1,
)
# For `taper profile`: until the intervals are narrow, or four visits have not made them so.
FULL: Final = Grid(
    batches=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256),
    context_ratio=3.5,
    longest_context=32768,
    most_cell_tokens=262144,
    steps=16,
    visits=4,
    least_visits=2,
    prefill_sizes=8,
    prefill_repeats=3,
    switch_requests=(1, 2, 4, 8, 16, 32),
    most_recomputed_tokens=65536,
    tours=2,
)
