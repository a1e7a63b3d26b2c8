"""Which KV migrates: never dearer than one way for all, the short ones first, whatever the order."""

from __future__ import annotations

import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile.kv_choice import (
    HeldKv,
    KvCosts,
    choose_recomputed,
    prefilled_tokens,
)

from ...examples import examples
from .kv_pause import kv_pause_seconds

terms = st.one_of(st.just(0.0), st.floats(1e-7, 1.0))
every_cost = st.builds(
    KvCosts,
    exchange_seconds=terms,
    migrated_request_seconds=terms,
    migrated_token_seconds=terms,
    recomputed_token_seconds=terms,
)
TYPICAL = KvCosts(
    exchange_seconds=0.005,
    migrated_request_seconds=0.001,
    migrated_token_seconds=1e-6,
    recomputed_token_seconds=1e-4,
)


@st.composite
def requests(draw: st.DrawFn, *, most: int = 12, groups: int = 4, shared: bool = False) -> tuple[HeldKv, ...]:
    made = []
    for index in range(draw(st.integers(0, most))):
        prompt = draw(st.integers(0, 2)) if shared else 0
        prompt_tokens = 40 * prompt
        made.append(
            HeldKv(
                id=f"r{index}",
                group=draw(st.integers(0, groups - 1)),
                num_tokens=draw(st.integers(max(1, prompt_tokens), 2000)),
                prompt=f"p{prompt}" if prompt else "",
                prompt_tokens=prompt_tokens,
            )
        )
    return tuple(made)


def near(seconds: float) -> float:
    return seconds * (1 + 1e-9) + 1e-12


@given(requests(shared=True), every_cost)
def test_it_costs_no_more_than_one_way_for_all(live: tuple[HeldKv, ...], costs: KvCosts) -> None:
    chosen = kv_pause_seconds(live, choose_recomputed(live, costs), costs)
    assert chosen <= near(kv_pause_seconds(live, frozenset(), costs))
    assert chosen <= near(kv_pause_seconds(live, frozenset(one.id for one in live), costs))


@examples(40)
@given(requests(most=6, groups=1), every_cost)
def test_in_one_group_no_other_set_costs_less(live: tuple[HeldKv, ...], costs: KvCosts) -> None:
    chosen = kv_pause_seconds(live, choose_recomputed(live, costs), costs)
    ids = [one.id for one in live]
    for count in range(len(ids) + 1):
        for others in itertools.combinations(ids, count):
            assert chosen <= near(kv_pause_seconds(live, others, costs))


@examples(40)
@given(requests(most=7, groups=3), every_cost)
def test_no_other_shortest_ones_of_each_group_cost_less(live: tuple[HeldKv, ...], costs: KvCosts) -> None:
    chosen = kv_pause_seconds(live, choose_recomputed(live, costs), costs)
    groups = [
        [one.id for one in sorted(live, key=lambda one: (one.num_tokens, one.id)) if one.group == group]
        for group in range(3)
    ]
    for counts in itertools.product(*(range(len(ids) + 1) for ids in groups)):
        others = [name for ids, count in zip(groups, counts, strict=True) for name in ids[:count]]
        assert chosen <= near(kv_pause_seconds(live, others, costs))


@given(requests(), every_cost)
def test_where_a_request_is_recomputed_so_is_every_shorter_one_of_its_group(
    live: tuple[HeldKv, ...], costs: KvCosts
) -> None:
    recomputed = choose_recomputed(live, costs)
    for one, two in itertools.permutations(live, 2):
        if one.group == two.group and one.num_tokens < two.num_tokens and two.id in recomputed:
            assert one.id in recomputed


@given(requests(shared=True), every_cost, st.randoms(use_true_random=False))
def test_the_order_of_requests_does_not_matter(
    live: tuple[HeldKv, ...], costs: KvCosts, random: Random
) -> None:
    shuffled = list(live)
    random.shuffle(shuffled)
    assert choose_recomputed(shuffled, costs) == choose_recomputed(live, costs)


def test_long_ones_migrate_short_ones_are_recomputed_and_both_in_a_mix() -> None:
    long = [HeldKv(f"long{index}", 0, 1500) for index in range(3)]
    short = [HeldKv(f"short{index}", 0, 5) for index in range(3)]
    assert choose_recomputed(long, TYPICAL) == set()
    assert choose_recomputed(short, TYPICAL) == {"short0", "short1", "short2"}
    assert choose_recomputed(long + short, TYPICAL) == {"short0", "short1", "short2"}


def test_groups_prefill_at_the_same_time() -> None:
    """One request is not worth its prefill; two in two groups take no longer, and save twice."""
    costs = KvCosts(
        exchange_seconds=0.0,
        migrated_request_seconds=0.008,
        migrated_token_seconds=0.0,
        recomputed_token_seconds=1e-4,
    )
    assert choose_recomputed([HeldKv("a", 0, 100)], costs) == set()
    assert choose_recomputed([HeldKv("a", 0, 100), HeldKv("b", 1, 100)], costs) == {"a", "b"}


def test_a_sibling_that_migrates_brings_the_prompt_for_the_others() -> None:
    siblings = [HeldKv(f"s{index}", 0, 1000 + index, "p", 1000) for index in range(4)]
    assert choose_recomputed(siblings, TYPICAL) == {"s0", "s1", "s2"}
    assert prefilled_tokens(siblings, {"s0", "s1", "s2"}) == {0: 0 + 1 + 2}
    assert prefilled_tokens(siblings, {"s0", "s1", "s2", "s3"}) == {0: 4006}
    apart = [one._replace(group=index) for index, one in enumerate(siblings)]
    assert choose_recomputed(apart, TYPICAL) == set()


def test_nothing_to_choose() -> None:
    assert choose_recomputed([], TYPICAL) == set()
    assert kv_pause_seconds([], set(), TYPICAL) == 0.0
