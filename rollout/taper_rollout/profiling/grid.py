"""What a profiler measures: the cells of the step surface, and the loads under which it switches. Pure.

Contexts ascend in equal ratios to the longest that can be measured, batches to the largest of a group.
Cells that do not fit into a group's KV memory are left out; for each batch these are its longest
contexts, as the step surface requires.

Invariants (asserted by `tests/rollout/profiling/test_grid.py`):
- every cell fits: its requests, and their tokens while they are measured;
- each batch has the contexts of the next smaller batch, or the shortest of them;
- the prompts of a prefill fit into their contexts, and sum up to its tokens;
- a tour visits each ordered pair of degrees once and ends where it started.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from taper_policy.profile.kv_choice import KvMode

# Steps right after a prefill or a switch, when caches are cold and groups not yet in step.
SKIPPED_STEPS: Final = 2
# Tokens that the first requests of a batch generate before the last one has arrived.
ARRIVAL_TOKENS: Final = 48
# SGLang reserves the last positions of a context, and some memory.
CONTEXT_MARGIN_TOKENS: Final = 8
FILL_SHARE: Final = 0.9
STEPS_BEFORE_SWITCH: Final = 3
# Tokens of a request between two switches: those steps, and some until they are noticed.
TOKENS_PER_SWITCH: Final = 32
# SGLang splits longer prefills into chunks.
MAX_PREFILL_TOKENS: Final = 4096
# At least this ratio lies between the contexts of two loads.
LOAD_CONTEXTS_RATIO: Final = 4
MEASURED_KV_MODES: Final[tuple[KvMode, ...]] = ("migrate", "recompute")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapacity:
    """What a replica can serve.

    max_running_requests, kv_tokens: of one group of the first degree; wider groups have proportionally more
    """

    footprint: int
    degrees: tuple[int, ...]
    max_running_requests: int
    kv_tokens: int
    context_tokens: int

    def requests(self, degree: int) -> int:
        """Largest batch of a group of a degree."""
        return self.max_running_requests * degree // self.degrees[0]

    def tokens(self, degree: int) -> int:
        """KV tokens of a group of a degree that a measurement may use."""
        return int(FILL_SHARE * self.kv_tokens * degree / self.degrees[0])


class Place(NamedTuple):
    """A cell to measure: `busy_groups` groups of a degree, each with `batch` requests of a mean context."""

    degree: int
    busy_groups: int
    batch: int
    context_tokens: int


class Load(NamedTuple):
    """Requests, all of one context length, that run during a tour of switches."""

    requests: int
    context_tokens: int
    kv: KvMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How finely to measure.

    batches: batch sizes, up to the largest of a group, which is always measured
    context_ratio: between neighbouring contexts, at most
    longest_context, max_cell_tokens: limits of what is prefilled for a cell
    steps: per visit to a cell, over its busy groups
    max_visits: to a cell; there are no more once its interval is narrow
    min_visits: to a cell; a disturbance of some seconds shifts all steps of a visit, which their interval
        cannot show
    prefill_sizes, prefill_repeats: per degree; sizes in equal ratios
    switch_requests: running requests during the tours
    max_recomputed_tokens: of a tour whose KV is recomputed
    tours: per load
    """

    batches: tuple[int, ...]
    shortest_context: int = 32
    context_ratio: float
    longest_context: int
    max_cell_tokens: int
    steps: int
    max_visits: int
    min_visits: int
    prefill_sizes: int
    prefill_repeats: int
    switch_requests: tuple[int, ...]
    max_recomputed_tokens: int
    tours: int

    @property
    def visit_tokens(self) -> int:
        """Tokens that a request may generate during a visit."""
        return SKIPPED_STEPS + self.steps + ARRIVAL_TOKENS

    @property
    def lead_tokens(self) -> int:
        """How much shorter a prompt is than its cell's context, which is the mean over the visit."""
        return SKIPPED_STEPS + self.steps // 2

    def contexts(self, capacity: EngineCapacity) -> tuple[int, ...]:
        """The contexts to measure, ascending. Raises `ValueError` if none is long enough."""
        limit_tokens = (
            min(capacity.context_tokens, capacity.tokens(capacity.degrees[0])) - CONTEXT_MARGIN_TOKENS
        )
        longest = min(self.longest_context, limit_tokens - self.visit_tokens + self.lead_tokens)
        if longest <= self.lead_tokens:
            raise ValueError(f"contexts of {limit_tokens} tokens are too short to measure decode steps")
        shortest = min(self.shortest_context, longest)
        count = 1 + math.ceil(round(math.log(longest / shortest, self.context_ratio), 6))
        contexts = [round(number) for number in ratios(shortest, longest, count)]
        # Contexts grow while samples are taken: neighbouring ones must not overlap.
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
        largest = capacity.requests(degree)
        return sorted({batch for batch in self.batches if batch < largest} | {min(largest, self.batches[-1])})

    def _fits(self, capacity: EngineCapacity, degree: int, batch: int, context: int) -> bool:
        needed = batch * (context - self.lead_tokens + self.visit_tokens)
        return needed <= capacity.tokens(degree) and batch * context <= max(
            self.max_cell_tokens, self.shortest_context * batch
        )

    def prefill_tokens(self, capacity: EngineCapacity) -> tuple[int, ...]:
        """Sizes of the prefills to measure, up to many prompts at once, as at the start of a stage."""
        longest = min(MAX_PREFILL_TOKENS, self.longest_context, capacity.tokens(capacity.degrees[0]) // 2)
        longest = min(longest, max(1, capacity.max_running_requests - 1) * _prompt_tokens(capacity))
        return tuple(round(number) for number in ratios(min(16, longest), longest, self.prefill_sizes))

    def loads(self, capacity: EngineCapacity) -> list[Load]:
        """The loads of the tours: few to many requests, of a short and of the longest context."""
        longest = min(
            self.contexts(capacity)[-1],
            capacity.context_tokens - CONTEXT_MARGIN_TOKENS - tour_tokens(capacity),
        )
        # With one context length, the costs per request and per byte could not be separated.
        shortest = min(self.shortest_context, longest // LOAD_CONTEXTS_RATIO)
        return [
            Load(requests, context, kv)
            for _ in range(self.tours)
            for kv in MEASURED_KV_MODES
            for requests in self.switch_requests
            for context in sorted({shortest, longest})
            if context > 0 and self._can_tour(capacity, requests, context)
            if kv == "migrate" or requests * context <= self.max_recomputed_tokens
        ]

    def _can_tour(self, capacity: EngineCapacity, requests: int, context: int) -> bool:
        """Whether the load fits in the narrowest layout, where groups may differ by one request."""
        base = capacity.degrees[0]
        each = -(-requests // (capacity.footprint // base))
        needed = (each + 1) * (context + tour_tokens(capacity))
        return each < capacity.requests(base) and needed <= capacity.tokens(base)


def prefill_prompts(capacity: EngineCapacity, tokens: int) -> list[int]:
    """Lengths of the fewest prompts, as equal as possible, that make up a prefill of `tokens` tokens."""
    count = -(-tokens // _prompt_tokens(capacity))
    return [(tokens + index) // count for index in range(count)]


def _prompt_tokens(capacity: EngineCapacity) -> int:
    """Tokens of the longest prompt."""
    return capacity.context_tokens - CONTEXT_MARGIN_TOKENS


def ratios(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from `first` to `last` in equal ratios."""
    if count < 2 or first >= last:
        return [last]
    return [first * (last / first) ** (index / (count - 1)) for index in range(count)]


def tour(degrees: Sequence[int]) -> Iterator[int]:
    """The degrees to switch to in turn, starting from the first degree and ending at it."""
    first, others = degrees[0], degrees[1:]
    for index, other in enumerate(others):
        yield other
        if index == 0:
            yield from tour(others)
        yield first


def tour_tokens(capacity: EngineCapacity) -> int:
    """Tokens that a request may generate during a tour."""
    pairs = len(capacity.degrees) * (len(capacity.degrees) - 1)
    return ARRIVAL_TOKENS + pairs * TOKENS_PER_SWITCH


# For the start of a run and `--quick`: rough, in about a minute.
QUICK: Final = Grid(
    batches=(1, 2, 3, 4, 8, 16, 32, 64, 128, 256),
    context_ratio=10.0,
    longest_context=1024,
    max_cell_tokens=2048,
    steps=8,
    max_visits=1,
    min_visits=1,
    prefill_sizes=6,
    prefill_repeats=1,
    switch_requests=(1, 4, 12),
    max_recomputed_tokens=1024,
    tours=1,
)
# For `taper profile`: until the intervals are narrow, or for four visits.
FULL: Final = Grid(
    batches=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256),
    context_ratio=3.5,
    longest_context=32768,
    max_cell_tokens=262144,
    steps=16,
    max_visits=4,
    min_visits=2,
    prefill_sizes=8,
    prefill_repeats=3,
    switch_requests=(1, 2, 4, 8, 16, 32),
    max_recomputed_tokens=65536,
    tours=2,
)
