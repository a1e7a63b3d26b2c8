"""Who leads, in thousands of simulated schedules and in the cases that matter by name."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.kube.election.lease_claim import ClaimState, LeaseClaim, LeaseRequest, LeaseVerb
from taper_operator.kube.errors import ApiError, Conflict, Unreachable
from taper_operator.kube.resource import KubeObject
from taper_operator.settings.parsing import LeaseTimes

from ...examples import examples
from .lease_simulation import KEY, START, Faults, LeaseStore, Simulation

TIMES = LeaseTimes()


def make_claim(identity: str = "a") -> LeaseClaim:
    return LeaseClaim(key=KEY, identity=identity, times=TIMES)


def step(claim: LeaseClaim, store: LeaseStore, now: float, lost: bool = False) -> LeaseRequest | None:
    """Ask the store once, with wall clocks that do not move."""
    request = claim.request(now, START)
    if request is not None:
        reply = store.ask(request)
        claim.answer(now, Unreachable("lost") if lost else reply)
    return request


def lead(claim: LeaseClaim, store: LeaseStore, now: float = 0.0) -> None:
    step(claim, store, now)
    step(claim, store, now)
    assert claim.leads(now)


def held_lease(store: LeaseStore) -> KubeObject:
    assert store.lease is not None
    return store.lease


@examples(150)
@given(
    seed=st.integers(0, 2**32),
    rates=st.lists(st.floats(0.93, 1.07), min_size=2, max_size=4),
    lost=st.sampled_from([0.0, 0.1, 0.5]),
    slow_seconds=st.sampled_from([0.05, 1.0, 12.0]),
    stop_share=st.sampled_from([0.0, 0.02, 0.2]),
)
def test_never_two_leaders(
    seed: int, rates: list[float], lost: float, slow_seconds: float, stop_share: float
) -> None:
    """Nor does a leader's write take effect in another's term; and when all is well again, one leads."""
    simulation = Simulation(
        random=Random(seed),
        faults=Faults(lost=lost, slow_seconds=slow_seconds, stop_share=stop_share, stopped_seconds=40),
        rates=rates,
    )
    simulation.run(until=400)
    assert simulation.late_writes() == []
    simulation.faults = Faults()
    simulation.run(until=520)
    assert len(simulation.leaders()) == 1


@examples(60)
@given(seed=st.integers(0, 2**32), rates=st.lists(st.floats(0.95, 1.05), min_size=2, max_size=3))
def test_a_killed_leader_is_replaced_within_fifteen_seconds(seed: int, rates: list[float]) -> None:
    simulation = Simulation(random=Random(seed), faults=Faults(), rates=rates)
    simulation.run(until=30)
    (leader,) = simulation.leaders()
    leader.stopped_until = 1e9
    simulation.run(until=45)
    leaders = simulation.leaders()
    assert len(leaders) == 1
    assert leaders[0] is not leader


def test_a_leader_that_was_suspended_no_longer_leads_and_requests_nothing() -> None:
    claim, store = make_claim(), LeaseStore()
    lead(claim, store)
    assert claim.write_seconds_left(6.9) > 0
    assert not claim.leads(7.0)
    assert claim.write_seconds_left(7.0) == 0
    assert claim.request(30.0, START) is None
    assert claim.state is ClaimState.ENDED


def test_a_deadline_counts_from_before_the_renewal_was_sent() -> None:
    claim, store = make_claim(), LeaseStore()
    step(claim, store, 0)
    request = claim.request(0.0, START)
    assert request is not None
    claim.answer(5.0, store.ask(request))
    assert claim.leads(6.9)
    assert not claim.leads(7.1)


def test_a_lease_won_too_late_is_read_again() -> None:
    claim, store = make_claim(), LeaseStore()
    step(claim, store, 0)
    request = claim.request(0.0, START)
    assert request is not None
    claim.answer(8.0, store.ask(request))
    assert not claim.leads(8.0)
    assert claim.state is ClaimState.FOLLOWING
    step(claim, store, 9)
    step(claim, store, 9)
    assert claim.leads(9.0)


def test_a_follower_waits_for_the_duration_by_its_own_clock() -> None:
    """What the lease says about time, years ago or ahead, is not looked at."""
    leader, follower, store = make_claim("a"), make_claim("b"), LeaseStore()
    lead(leader, store)
    held_lease(store)["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    for now in (50.0, 59.9):
        step(follower, store, now)
        step(follower, store, now)
        assert not follower.leads(now)
    step(follower, store, 60.0)
    step(follower, store, 60.0)
    assert follower.leads(60.0)
    assert held_lease(store)["spec"]["leaseTransitions"] == 1


def test_each_renewal_restarts_a_followers_wait() -> None:
    leader, follower, store = make_claim("a"), make_claim("b"), LeaseStore()
    lead(leader, store)
    for now in range(0, 60, 2):
        step(leader, store, now)
        step(follower, store, now)
    assert leader.leads(58.0)
    assert not follower.leads(58.0)


def test_renewals_differ_though_the_wall_clock_stands_still_or_goes_back() -> None:
    claim, store = make_claim(), LeaseStore()
    lead(claim, store)
    reply = []
    for now in range(1, 5):
        request = claim.request(float(now), START - timedelta(seconds=100 * now))
        assert request is not None
        claim.answer(float(now), store.ask(request))
        reply.append(held_lease(store)["spec"]["renewTime"])
    assert len(set(reply)) == 4
    assert reply == sorted(reply)


def test_a_write_whose_answer_was_lost_is_detected() -> None:
    claim, store = make_claim(), LeaseStore()
    step(claim, store, 0)
    step(claim, store, 0, lost=True)
    assert held_lease(store)["spec"]["holderIdentity"] == "a"
    assert not claim.leads(0.0)
    step(claim, store, 1)
    step(claim, store, 1)
    assert claim.leads(1.0)


def test_a_renewal_whose_answer_was_lost_costs_no_leadership() -> None:
    claim, store = make_claim(), LeaseStore()
    lead(claim, store)
    step(claim, store, 2, lost=True)
    verbs = [step(claim, store, 3 + index / 10) for index in range(3)]
    assert [request.verb for request in verbs if request] == [
        LeaseVerb.REPLACE,
        LeaseVerb.READ,
        LeaseVerb.REPLACE,
    ]
    assert claim.leads(10.0)


def test_a_leader_that_finds_another_holder_ends_at_once() -> None:
    claim, store = make_claim(), LeaseStore()
    lead(claim, store)
    held_lease(store)["spec"]["holderIdentity"] = "b"
    held_lease(store)["metadata"]["resourceVersion"] = "77"
    step(claim, store, 1)
    step(claim, store, 1)
    assert claim.state is ClaimState.ENDED
    assert not claim.leads(1.0)


def test_a_deleted_lease_ends_its_leader_and_is_not_taken_early() -> None:
    leader, follower, store = make_claim("a"), make_claim("b"), LeaseStore()
    lead(leader, store)
    step(follower, store, 1)
    store.lease = None
    for now in (2.0, 8.0, 11.9):
        step(follower, store, now)
        assert store.lease is None
    step(leader, store, 3)
    assert leader.state is ClaimState.ENDED
    step(follower, store, 12.0)
    step(follower, store, 12.0)
    assert follower.leads(12.0)


def test_a_released_lease_is_taken_at_once() -> None:
    leader, follower, store = make_claim("a"), make_claim("b"), LeaseStore()
    lead(leader, store)
    step(follower, store, 1)
    request = leader.release(2.0, START)
    assert request is not None
    assert not leader.leads(2.0)
    assert leader.request(2.0, START) is None
    assert not isinstance(store.ask(request), ApiError)
    assert held_lease(store)["spec"]["leaseDurationSeconds"] == 1
    step(follower, store, 2.5)
    step(follower, store, 2.5)
    assert follower.leads(2.5)


def test_a_follower_releases_nothing() -> None:
    claim, store = make_claim(), LeaseStore()
    assert claim.release(0.0, START) is None
    other = make_claim("b")
    lead(other, store)
    assert other.release(7.5, START) is None


def test_fields_of_others_in_the_lease_are_kept() -> None:
    store = LeaseStore()
    lead(make_claim("a"), store)
    held_lease(store)["metadata"]["labels"] = {"team": "x"}
    held_lease(store)["spec"]["preferredHolder"] = "c"
    follower = make_claim("b")
    for now in (20.0, 30.0, 30.0):
        step(follower, store, now)
    assert follower.leads(30.0)
    assert held_lease(store)["metadata"]["labels"] == {"team": "x"}
    assert held_lease(store)["spec"]["preferredHolder"] == "c"


@pytest.mark.parametrize(
    "failure", [Unreachable("lost"), Conflict("another write")], ids=["lost", "conflict"]
)
def test_failures_do_not_cause_constant_requests(failure: ApiError) -> None:
    claim, store = make_claim(), LeaseStore()
    for now in (0.0, 2.0, 4.0):
        step(claim, store, now)
        claim.answer(now, failure)
        assert claim.wait_seconds(now, Random(1)) >= 1.6
    lead(claim, store, 5.0)
    claim.request(7.0, START)
    claim.answer(7.0, failure)
    assert 0.4 <= claim.wait_seconds(7.0, Random(1)) <= 0.5


@pytest.mark.parametrize("now", [2.0, 5.0, 9.0])
def test_the_next_read_is_when_the_lease_may_be_free(now: float) -> None:
    store, follower = LeaseStore(), make_claim("b")
    lead(make_claim("a"), store)
    step(follower, store, 0)
    step(follower, store, now)
    assert follower.wait_seconds(now, Random(1)) <= min(2.0, 10.0 - now)
