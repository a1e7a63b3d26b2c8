"""The elector and the API server's answers; `test_lease_claim.py` tests who leads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
import urllib3

from taper_operator.kube.election.leader_elector import LeaderElector, boottime_clock
from taper_operator.kube.election.lease_claim import LeaseRequest, LeaseVerb
from taper_operator.kube.resource import LEASES, KubeObject, ObjectKey
from taper_operator.settings.parsing import LeaseTimes

from ..clock import Clock
from ..fake_api_server import FakeApiServer, FakeHttpResponse, status_body

KEY = ObjectKey("taper", "taper-operator")
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


def make_elector(fake: FakeApiServer, clock: Clock, identity: str = "a") -> LeaderElector:
    return LeaderElector(
        fake.api_server(clock),
        key=KEY,
        identity=identity,
        times=LeaseTimes(),
        clock=clock,
        random=Random(1),
        wall_clock=lambda: AT,
    )


def spec_in(fake: FakeApiServer) -> KubeObject:
    spec: KubeObject = fake.all(LEASES)[KEY]["spec"]
    return spec


def test_the_first_makes_the_lease_and_leads() -> None:
    fake, clock = FakeApiServer(), Clock()
    elector = make_elector(fake, clock)
    assert not elector.is_leader_now()
    assert elector.step() == 0
    assert 1.6 <= elector.step() <= 2
    assert elector.is_leader_now()
    assert fake.verbs("leases") == ["GET", "POST"]
    assert spec_in(fake) == {
        "holderIdentity": elector.identity,
        "leaseDurationSeconds": 10,
        "acquireTime": "2026-11-21T12:00:00.000000Z",
        "renewTime": "2026-11-21T12:00:00.000000Z",
        "leaseTransitions": 0,
    }
    clock.now += 2
    elector.step()
    assert fake.verbs("leases") == ["GET", "POST", "PUT"]


def test_replicas_of_one_name_are_not_the_same() -> None:
    fake, clock = FakeApiServer(), Clock()
    first, second = make_elector(fake, clock), make_elector(fake, clock)
    for elector in (first, first, second, second):
        elector.step()
    assert first.is_leader_now()
    assert not second.is_leader_now()
    assert second._claim.holder == first.identity


def test_during_an_outage_leadership_ends_for_good() -> None:
    fake, clock = FakeApiServer(), Clock()
    elector = make_elector(fake, clock)
    elector.step()
    elector.step()

    def refuse(method: str, path: str) -> None:
        raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]

    fake.fault = refuse
    began = clock.now
    while not elector.has_ended:
        clock.now += elector.step()
    assert 7 <= clock.now - began <= 7.6
    fake.fault = lambda method, path: None
    clock.now += 100
    num_requests = len(fake.requests)
    elector.step()
    assert elector.has_ended
    assert len(fake.requests) == num_requests


def test_a_release_lets_another_lead_at_once() -> None:
    fake, clock = FakeApiServer(), Clock()
    first, second = make_elector(fake, clock), make_elector(fake, clock, "b")
    for elector in (first, first, second):
        elector.step()
    assert first.release(wait_seconds=1)
    assert not first.is_leader_now()
    assert first.write_seconds_left() == 0
    assert not first.release(wait_seconds=1)
    clock.now += 2
    second.step()
    second.step()
    assert second.is_leader_now()
    assert spec_in(fake)["leaseTransitions"] == 1


def test_a_release_does_not_wait_for_ever() -> None:
    elector = make_elector(FakeApiServer(), Clock())
    with elector._request_lock:
        assert not elector.release(wait_seconds=0.01)


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("status", [403, 404, 409, 500])
def test_no_answer_of_the_api_server_ends_a_follower(verb: str, status: int) -> None:
    fake, clock = FakeApiServer(), Clock()
    real = fake._handle

    def handle(method: str, *rest: Any) -> FakeHttpResponse:
        if method == verb:
            body = status_body(status, "", "no", {"name": "x"})
            return FakeHttpResponse(status, json.dumps(body).encode())
        return real(method, *rest)

    fake._handle = handle  # type: ignore[method-assign]
    elector = make_elector(fake, clock)
    began = clock.now
    for _ in range(30):
        clock.now += elector.step()
    if verb == "PUT":
        # It could make the lease, but not renew it.
        assert elector.has_ended
        return
    assert not elector.has_ended
    # A read and a write each two seconds, at most.
    assert clock.now - began > 15 * 1.6
    fake._handle = real  # type: ignore[method-assign]
    clock.now += elector.step()
    elector.step()
    assert elector.is_leader_now()


def test_a_leader_requests_early_enough_to_retry_before_its_deadline() -> None:
    fake, clock = FakeApiServer(), Clock()
    elector = make_elector(fake, clock)
    elector.step()
    elector.step()
    waited: dict[LeaseVerb, list[float]] = {LeaseVerb.READ: [], LeaseVerb.REPLACE: []}
    for elapsed in (2.0, 5.5, 6.99):
        clock.now = 100.0 + elapsed
        for verb, seconds in waited.items():
            lease = None if verb is LeaseVerb.READ else {}
            seconds.append(elector._read_seconds(LeaseRequest(verb=verb, lease=lease)))
    assert waited[LeaseVerb.READ] == pytest.approx([3.0, 1.5, 0.1])
    # With a second in which the answer to a write may still come.
    assert waited[LeaseVerb.REPLACE] == pytest.approx([2.0, 0.5, 0.1])


@pytest.mark.parametrize("seed", range(5))
def test_a_renewal_without_an_answer_leaves_time_for_another(seed: int) -> None:
    fake, clock = FakeApiServer(), Clock()
    elector = make_elector(fake, clock)
    elector.random = Random(seed)
    clock.now += elector.step()
    clock.now += elector.step()
    request = fake.request

    def lose(*args: Any, _request_timeout: tuple[float, float], **options: Any) -> Any:
        clock.now += _request_timeout[1]
        raise urllib3.exceptions.ReadTimeoutError(None, "", "no answer")  # type: ignore[arg-type]

    def answer_slowly(*args: Any, **options: Any) -> Any:
        # The slowest hundredth of answers on two busy cores.
        clock.now += 1.2
        assert elector.is_leader_now()
        return request(*args, **options)

    fake.request = lose  # type: ignore[method-assign]
    seconds = elector.step()
    clock.now += seconds
    fake.request = answer_slowly  # type: ignore[method-assign]
    elector.step()
    assert elector._claim.seconds_to_deadline(clock.now) > 5


def test_the_clock_is_monotonic() -> None:
    assert boottime_clock() <= boottime_clock()
