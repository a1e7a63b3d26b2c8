"""Grids fit the replica, make a surface, and cover every switch."""

from __future__ import annotations

import dataclasses
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.profiling.grid import (
    ARRIVAL_TOKENS,
    FULL,
    QUICK,
    SKIPPED_STEPS,
    EngineCapacity,
    Grid,
    prefill_prompts,
    tour,
    tour_tokens,
)

SAMPLE = EngineCapacity(
    footprint=2, degrees=(1, 2), max_running_requests=32, kv_tokens=8192, context_tokens=352
)


@st.composite
def rooms(draw: st.DrawFn) -> EngineCapacity:
    degrees = draw(st.sampled_from([(1,), (1, 2), (2, 4), (1, 2, 4), (1, 8), (1, 2, 4, 8)]))
    return EngineCapacity(
        footprint=degrees[-1],
        degrees=degrees,
        max_running_requests=draw(st.integers(1, 300)),
        kv_tokens=draw(st.integers(256, 300_000)),
        context_tokens=draw(st.integers(100, 40_000)),
    )


@pytest.mark.parametrize("grid", [QUICK, FULL], ids=["quick", "full"])
@given(capacity=rooms())
def test_every_cell_fits(grid: Grid, capacity: EngineCapacity) -> None:
    places = grid.places(capacity)
    for degree in capacity.degrees:
        for busy in {1, capacity.footprint // degree}:
            assert any(place[:3] == (degree, busy, 1) for place in places)
    for place in places:
        longest = place.context_tokens - grid.lead_tokens + grid.visit_tokens
        assert longest < capacity.context_tokens
        assert place.batch * longest < capacity.tokens(place.degree) + 1
        assert 1 <= place.batch <= capacity.requests(place.degree)
        assert place.context_tokens > grid.lead_tokens >= SKIPPED_STEPS


@pytest.mark.parametrize("grid", [QUICK, FULL], ids=["quick", "full"])
@given(capacity=rooms())
def test_larger_batches_leave_out_the_longest_contexts_only(grid: Grid, capacity: EngineCapacity) -> None:
    places = grid.places(capacity)
    assert places == sorted(set(places))
    for _, slab in groupby(places, lambda place: place[:2]):
        lines = [[place.context_tokens for place in line] for _, line in groupby(slab, lambda p: p.batch)]
        for fewer, more in pairwise(lines):
            assert more == fewer[: len(more)]


@given(capacity=rooms())
def test_samples_of_neighbouring_contexts_do_not_overlap(capacity: EngineCapacity) -> None:
    """A context grows while it is measured, and `fit_profile` takes the nearest of the grid."""
    for one, two in pairwise(FULL.contexts(capacity)):
        assert two - one >= FULL.steps + ARRIVAL_TOKENS


@pytest.mark.parametrize("grid", [QUICK, FULL], ids=["quick", "full"])
@given(capacity=rooms())
def test_the_prompts_of_a_prefill_fit_and_sum_up_to_its_tokens(grid: Grid, capacity: EngineCapacity) -> None:
    sizes = grid.prefill_tokens(capacity)
    assert list(sizes) == sorted(sizes)
    for size in sizes:
        prompts = prefill_prompts(capacity, size)
        assert sum(prompts) == size
        assert 1 <= min(prompts) <= max(prompts) < capacity.context_tokens
        assert max(prompts) - min(prompts) <= 1
        # Beside the request that decodes meanwhile, but for a replica that serves one at a time.
        assert len(prompts) < max(2, capacity.max_running_requests)
        assert size <= capacity.tokens(capacity.degrees[0]) // 2


def test_prefills_are_measured_beyond_the_longest_prompt() -> None:
    """The first prefill of a stage has many prompts at once."""
    assert SAMPLE.context_tokens < max(QUICK.prefill_tokens(SAMPLE)) == QUICK.longest_context


def test_the_grid_of_the_sample() -> None:
    assert QUICK.contexts(SAMPLE) == (32, 292)
    places = QUICK.places(SAMPLE)
    batches = [1, 2, 3, 4, 8, 16, 32]
    assert sorted({place.batch for place in places if place.degree == 1}) == batches
    assert sorted({place.batch for place in places if place.degree == 2}) == [*batches, 64]
    assert len(places) < 50
    assert len(FULL.places(SAMPLE)) > 1.5 * len(places)


@given(capacity=rooms())
def test_loads_last_for_a_tour(capacity: EngineCapacity) -> None:
    for load in QUICK.loads(capacity):
        longest = load.context_tokens + tour_tokens(capacity)
        assert longest < capacity.context_tokens
        base = capacity.degrees[0]
        each = -(-load.requests // (capacity.footprint // base))
        assert each * longest <= capacity.tokens(base)
        assert each <= capacity.requests(base)


@pytest.mark.parametrize("capacity", [SAMPLE, dataclasses.replace(SAMPLE, context_tokens=140)])
def test_loads_separate_the_terms_of_a_switch(capacity: EngineCapacity) -> None:
    """Requests, tokens and recomputation vary independently, with enough samples for cross-validation."""
    loads = QUICK.loads(capacity)
    assert len(loads) >= 8
    for kv in ("migrate", "recompute"):
        chosen = [load for load in loads if load.kv == kv]
        assert len({load.requests for load in chosen}) >= 2
        assert len({load.context_tokens for load in chosen}) >= 2


@given(st.sampled_from([(1, 2), (1, 2, 4), (1, 2, 4, 8), (2, 8)]))
def test_a_tour_makes_each_switch_once_and_ends_where_it_started(degrees: tuple[int, ...]) -> None:
    way = [degrees[0], *tour(degrees)]
    assert way[-1] == way[0]
    switches = list(pairwise(way))
    assert len(set(switches)) == len(switches) == len(degrees) * (len(degrees) - 1)
    assert all(one != two for one, two in switches)


def test_contexts_too_short_to_measure_are_refused() -> None:
    with pytest.raises(ValueError, match="too short to measure"):
        QUICK.contexts(dataclasses.replace(SAMPLE, context_tokens=50))
