import dataclasses
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy import layout
from taper_policy.profile.kv_choice import HeldKv, KvCosts, KvMode, choose_recomputed
from taper_rollout.switching.plans import KvSlice, SwitchPlan, plan_switch

MAX_TOKENS = 3000
COSTS = KvCosts(
    exchange_seconds=0.01,
    migrated_request_seconds=0.01,
    migrated_token_seconds=1e-5,
    recomputed_token_seconds=1e-4,
)
WAYS: tuple[KvMode, ...] = ("migrate", "recompute", COSTS)


def request(name: str, group: int, num_tokens: int) -> HeldKv:
    return HeldKv(id=name, group=group, num_tokens=num_tokens)


@st.composite
def plans(draw: st.DrawFn, *, widen: bool | None = None, kv: KvMode | None = None) -> SwitchPlan:
    footprint = draw(st.sampled_from((2, 4, 8)))
    degrees = layout.uniform_degrees(footprint)
    low, high = sorted(draw(st.sets(st.sampled_from(degrees), min_size=2, max_size=2)))
    widening = draw(st.booleans()) if widen is None else widen
    from_degree, to_degree = (low, high) if widening else (high, low)
    sizes = draw(
        st.lists(
            st.tuples(
                st.integers(0, footprint // from_degree - 1),
                st.one_of(st.just(0), st.integers(0, 9), st.integers(0, MAX_TOKENS)),
            ),
            max_size=24,
        )
    )
    requests = [request(f"r{index}", group, tokens) for index, (group, tokens) in enumerate(sizes)]
    num_kv_heads = high * draw(st.integers(1, 3))
    way = draw(st.sampled_from(WAYS)) if kv is None else kv
    return plan_switch(requests, footprint, from_degree, to_degree, num_kv_heads, way)


def requests_of(plan: SwitchPlan, group: int) -> list[HeldKv]:
    """What the new layout's `group` serves."""
    return [live for live in plan.requests if plan.target_group[live.id] == group]


def heads_of(kv: KvSlice) -> range:
    return range(kv.head_start, kv.head_start + kv.head_count)


def within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


@given(plans())
def test_a_target_group_lies_in_the_old_group_or_around_it(plan: SwitchPlan) -> None:
    for live in plan.requests:
        old = set(layout.ranks_of(live.group, plan.from_degree))
        new = set(layout.ranks_of(plan.target_group[live.id], plan.to_degree))
        assert old < new or new < old


@given(plans())
def test_each_target_rank_gets_each_of_its_heads_exactly_once(plan: SwitchPlan) -> None:
    got = Counter((kv.request, kv.target_rank, head) for kv in plan.slices for head in heads_of(kv))
    wanted = {
        (live.id, rank, head)
        for live in plan.migrated
        for rank in layout.ranks_of(plan.target_group[live.id], plan.to_degree)
        for head in layout.shard_rows(rank, plan.to_degree, plan.num_kv_heads)
    }
    assert set(got) == wanted
    assert set(got.values()) <= {1}


@given(plans())
def test_each_slice_comes_whole_from_a_rank_that_holds_it(plan: SwitchPlan) -> None:
    lives = {live.id: live for live in plan.requests}
    for kv in plan.slices:
        live = lives[kv.request]
        assert kv.num_tokens == live.num_tokens
        assert layout.group_of(kv.source_rank, plan.from_degree) == live.group
        held = layout.shard_rows(kv.source_rank, plan.from_degree, plan.num_kv_heads)
        assert within(heads_of(kv), held)


@given(plans())
def test_a_rank_keeps_what_it_has_and_needs(plan: SwitchPlan) -> None:
    lives = {live.id: live for live in plan.requests}
    for kv in plan.slices:
        if layout.group_of(kv.target_rank, plan.from_degree) != lives[kv.request].group:
            continue
        held = layout.shard_rows(kv.target_rank, plan.from_degree, plan.num_kv_heads)
        if within(heads_of(kv), held):
            assert kv.source_rank == kv.target_rank


@given(plans(widen=True))
def test_widening_takes_nothing_from_others_for_ranks_of_the_old_group(plan: SwitchPlan) -> None:
    lives = {live.id: live for live in plan.requests}
    for kv in plan.slices:
        home = layout.ranks_of(lives[kv.request].group, plan.from_degree)
        assert (kv.source_rank == kv.target_rank) == (kv.target_rank in home)


@given(plans())
def test_what_crosses_ranks_is_what_is_counted(plan: SwitchPlan) -> None:
    moved = sum(len(heads_of(kv)) * kv.num_tokens for kv in plan.slices if kv.source_rank != kv.target_rank)
    assert plan.moved_tokens_heads == moved


@given(plans(widen=False))
def test_narrowing_balances_each_groups_sub_groups(plan: SwitchPlan) -> None:
    ratio = plan.from_degree // plan.to_degree
    for group in range(plan.footprint // plan.from_degree):
        parts = [requests_of(plan, group * ratio + part) for part in range(ratio)]
        tokens = [sum(live.num_tokens for live in part) for part in parts]
        largest = max((live.num_tokens for part in parts for live in part), default=0)
        assert max(tokens) - min(tokens) <= largest


@given(st.sampled_from(WAYS), st.data(), st.randoms(use_true_random=False))
def test_the_order_of_requests_is_of_no_matter(kv: KvMode, data: st.DataObject, random: Random) -> None:
    plan = data.draw(plans(kv=kv))
    shuffled = random.sample(plan.requests, len(plan.requests))
    again = plan_switch(shuffled, plan.footprint, plan.from_degree, plan.to_degree, plan.num_kv_heads, kv)
    assert again == plan
    assert again.digest() == plan.digest()


@given(plans())
def test_what_has_kv_migrates_or_is_recomputed(plan: SwitchPlan) -> None:
    started = {live.id for live in plan.requests if live.num_tokens}
    migrated = {live.id for live in plan.migrated}
    assert migrated | plan.recomputed == started
    assert not migrated & plan.recomputed
    assert {kv.request for kv in plan.slices} == migrated


@given(st.data())
def test_each_has_its_own_way_by_cost(data: st.DataObject) -> None:
    plan = data.draw(plans(kv=COSTS))
    assert plan.recomputed == choose_recomputed(plan.held, COSTS)
    assert {held.id: held.group for held in plan.held} == {
        live.id: plan.target_group[live.id] for live in plan.requests if live.num_tokens
    }


def test_plans_that_recompute_others_have_other_digests() -> None:
    requests = [request("a", 0, 2000), request("b", 1, 5)]
    made = [plan_switch(requests, 2, 1, 2, 2, kv) for kv in WAYS]
    assert [plan.recomputed for plan in made] == [set(), {"a", "b"}, {"b"}]
    assert len({plan.digest() for plan in made}) == len(WAYS)
    # Nothing moves in either, but one of them would be prefilled by some ranks only.
    assert made[1].digest() != dataclasses.replace(made[1], recomputed=frozenset("a")).digest()


@given(plans(kv="migrate"), st.data())
def test_a_plan_of_other_requests_has_another_digest(plan: SwitchPlan, data: st.DataObject) -> None:
    if not plan.requests:
        return
    index = data.draw(st.integers(0, len(plan.requests) - 1))
    live = plan.requests[index]
    other = request(live.id, live.group, live.num_tokens + 1)
    requests = [*plan.requests[:index], other, *plan.requests[index + 1 :]]
    changed = plan_switch(requests, plan.footprint, plan.from_degree, plan.to_degree, plan.num_kv_heads)
    assert changed.digest() != plan.digest()


def test_widening_by_hand() -> None:
    plan = plan_switch([request("a", 1, 5)], 2, 1, 2, 4)
    assert plan.target_group == {"a": 0}
    assert plan.slices == (KvSlice("a", 1, 0, 0, 2, 5), KvSlice("a", 1, 1, 2, 2, 5))
    assert plan.moved_tokens_heads == 10


def test_widening_to_four_follows_the_nested_shards() -> None:
    plan = plan_switch([request("a", 0, 1)], 4, 2, 4, 4)
    # Rank 1 holds heads 2-3 at degree 2: it keeps head 2 and gives head 3 to rank 3.
    assert [kv[1:5] for kv in plan.slices] == [(0, 0, 0, 1), (1, 1, 2, 1), (0, 2, 1, 1), (1, 3, 3, 1)]


def test_narrowing_by_hand() -> None:
    requests = [request("a", 0, 5), request("b", 0, 9), request("c", 0, 4)]
    plan = plan_switch(requests, 2, 2, 1, 2)
    assert plan.target_group == {"a": 1, "b": 0, "c": 1}
    assert plan.slices == (
        KvSlice("a", 0, 1, 0, 1, 5),
        KvSlice("a", 1, 1, 1, 1, 5),
        KvSlice("b", 0, 0, 0, 1, 9),
        KvSlice("b", 1, 0, 1, 1, 9),
        KvSlice("c", 0, 1, 0, 1, 4),
        KvSlice("c", 1, 1, 1, 1, 4),
    )
    assert plan.moved_tokens_heads == 18


def test_requests_without_kv_are_spread_and_move_nothing() -> None:
    plan = plan_switch([request(f"r{index}", 0, 0) for index in range(6)], 2, 2, 1, 2)
    assert Counter(plan.target_group.values()) == {0: 3, 1: 3}
    assert plan.slices == ()


def test_an_empty_plan_is_a_plan() -> None:
    plan = plan_switch([], 4, 1, 4, 4)
    assert (plan.slices, plan.moved_tokens_heads) == ((), 0)


def test_the_digest_is_the_same_everywhere() -> None:
    requests = [request("a", 0, 5), request("b", 1, 9)]
    assert plan_switch(requests, 2, 1, 2, 2).digest() == "f12ef1fc52a57e526b338253c3b3ab48"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"to_degree": 1}, "to_degree: 1 is the degree already"),
        ({"to_degree": 3}, "to_degree: 3 is not a power of two"),
        ({"from_degree": 0}, "from_degree: 0 is not a power of two"),
        ({"to_degree": 8}, "to_degree: 8 is larger than the footprint, 4"),
        ({"footprint": 6}, "footprint: 6 is not a power of two"),
        ({"num_kv_heads": 6}, "to_degree: 4 does not divide the model's 6 KV heads"),
        ({"from_degree": 4, "to_degree": 1, "num_kv_heads": 2}, "from_degree: 4 does not divide"),
        ({"num_kv_heads": 0}, "does not divide the model's 0 KV heads"),
        ({"requests": [request("a", 4, 1)]}, r"requests\['a'\].group: 4 is not one of the 4 groups"),
        ({"requests": [request("a", -1, 1)]}, r"requests\['a'\].group: -1 is not one of the 4 groups"),
        ({"requests": [request("a", 0, -1)]}, r"requests\['a'\].num_tokens: -1 is negative"),
        (
            {"requests": [HeldKv(id="a", group=0, num_tokens=3, prompt="p", prompt_tokens=4)]},
            r"requests\['a'\].prompt_tokens: 4 is above the 3 tokens that it has",
        ),
        ({"requests": [request("a", 0, 1), request("a", 1, 2)]}, r"requests\['a'\]: listed twice"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_refused(changes: dict[str, object], problem: str) -> None:
    arguments: dict[str, object] = {"footprint": 4, "from_degree": 1, "to_degree": 4, "num_kv_heads": 4}
    with pytest.raises(ValueError, match=problem):
        plan_switch(**({"requests": []} | arguments | changes))  # type: ignore[arg-type]
