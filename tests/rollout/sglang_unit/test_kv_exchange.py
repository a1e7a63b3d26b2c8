"""Every target rank ends up with each token of each of its heads, whatever lay in its slots before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taper_policy import layout
from taper_rollout.sglang import kv_exchange
from taper_rollout.sglang.cpu.collectives import SharedMemoryGroup, region_bytes
from taper_rollout.shared_memory.segment import Segment

from ...examples import examples
from .exchange_case import ExchangeCase, RankArena, move
from .processes import run_ranks

CONTROL_SLOT_BYTES = 4096
CASES_IN_PROCESSES = 40


@st.composite
def cases(draw: st.DrawFn) -> ExchangeCase:
    footprint = draw(st.sampled_from((2, 4, 8)))
    degrees = layout.uniform_degrees(footprint)
    low, high = sorted(draw(st.sets(st.sampled_from(degrees), min_size=2, max_size=2)))
    old, new = draw(st.sampled_from([(low, high), (high, low)]))
    tokens = st.one_of(st.integers(0, 5), st.integers(0, 90))
    requests = draw(st.lists(st.tuples(st.integers(0, footprint // old - 1), tokens), max_size=10))
    return ExchangeCase(
        footprint=footprint,
        base_degree=draw(st.sampled_from([d for d in degrees if d <= low])),
        from_degree=old,
        to_degree=new,
        num_kv_heads=high * draw(st.integers(1, 3)),
        requests=tuple(requests),
        seed=draw(st.integers(0, 1000)),
    )


def shared_staging(arena: RankArena, segment: Segment, offset: int, barrier: object) -> kv_exchange.Staging:
    return kv_exchange.SharedMemoryStaging(
        segment,
        offset,
        arena.case.staging_bytes(),
        arena.rank,
        arena.plan,
        arena.like,
        barrier,  # type: ignore[arg-type]
    )


def moved_by_threads(case: ExchangeCase) -> list[list[str]]:
    segment = Segment.create("taper-test", case.footprint * case.staging_bytes())
    barrier = threading.Barrier(case.footprint, timeout=30)

    def rank_moves(rank: int) -> list[str]:
        return move(RankArena(case, rank), lambda arena: shared_staging(arena, segment, 0, barrier.wait))

    with ThreadPoolExecutor(case.footprint) as pool:
        results = list(pool.map(rank_moves, range(case.footprint)))
    segment.close()
    return results


@examples(150)
@given(cases())
def test_any_plan_arrives_through_shared_memory(case: ExchangeCase) -> None:
    assert moved_by_threads(case) == [[]] * case.footprint


def move_in_processes(segment: Segment, rank: int, footprint: int) -> list[str]:
    """Many exchanges, one after another, as a living replica does them."""
    control = SharedMemoryGroup(
        segment,
        0,
        range(footprint),
        rank,
        timeout_seconds=30,
        slot_bytes=CONTROL_SLOT_BYTES,
        oversubscribed=True,
    )
    offset = region_bytes(footprint, CONTROL_SLOT_BYTES)
    wrong = []
    for seed in range(CASES_IN_PROCESSES):
        case = ExchangeCase.random(seed, footprint)
        arena = RankArena(case, rank)
        wrong += move(arena, lambda arena: shared_staging(arena, segment, offset, control.barrier))
        control.barrier()
    return wrong


@pytest.mark.parametrize("footprint", [2, 4])
def test_random_plans_arrive_between_processes(footprint: int) -> None:
    largest = max(ExchangeCase.random(seed, footprint).staging_bytes() for seed in range(CASES_IN_PROCESSES))
    size = region_bytes(footprint, CONTROL_SLOT_BYTES) + footprint * largest
    assert run_ranks(move_in_processes, footprint, size, footprint) == [[]] * footprint


def device_staging(arena: RankArena) -> kv_exchange.Staging:
    return kv_exchange.DeviceStaging(arena.rank, arena.plan, arena.like)


def move_by_messages(_: Segment, rank: int, footprint: int, store: str) -> list[str]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=footprint
    )
    wrong = []
    for seed in range(CASES_IN_PROCESSES):
        wrong += move(RankArena(ExchangeCase.random(seed, footprint), rank), device_staging)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return wrong


@pytest.mark.parametrize("footprint", [2, 4])
def test_random_plans_arrive_by_messages(footprint: int, tmp_path: Path) -> None:
    results = run_ranks(move_by_messages, footprint, 4096, footprint, str(tmp_path / "store"))
    assert results == [[]] * footprint


def test_staging_that_is_too_small_is_refused() -> None:
    case = ExchangeCase(
        footprint=2, base_degree=1, from_degree=1, to_degree=2, num_kv_heads=2, requests=((0, 50),), seed=0
    )
    segment = Segment.create("taper-test", 8192)
    arena = RankArena(case, 0)
    with pytest.raises(ValueError, match="staging of rank 0 is too small for 50 tokens"):
        kv_exchange.SharedMemoryStaging(segment, 0, 4096, 0, arena.plan, arena.like, lambda: None)
    segment.close()


def test_slots_that_nobody_was_given_stay_as_they_were() -> None:
    case = ExchangeCase(
        footprint=2,
        base_degree=1,
        from_degree=1,
        to_degree=2,
        num_kv_heads=4,
        requests=((0, 20), (1, 7)),
        seed=4,
    )
    arenas = [RankArena(case, rank) for rank in range(2)]
    segment = Segment.create("taper-test", 2 * case.staging_bytes())
    barrier = threading.Barrier(2, timeout=30)
    before = [arena.new[0][0].clone() for arena in arenas]
    with ThreadPoolExecutor(2) as pool:
        wrong = pool.map(lambda a: move(a, lambda a: shared_staging(a, segment, 0, barrier.wait)), arenas)
        assert list(wrong) == [[], []]
    for arena, old in zip(arenas, before, strict=True):
        given_slots = torch.cat(list(arena.new_slots.values()))
        others = torch.ones(len(old), dtype=torch.bool)
        others[given_slots] = False
        assert torch.equal(arena.new[0][0][others], old[others])
    segment.close()
