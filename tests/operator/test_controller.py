"""The whole operator but for its plan, in threads, against the API server in memory."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

from taper_operator.controller import Controller, Reconcile
from taper_operator.kube import errors as api_error
from taper_operator.kube.resource import EVENTS, LEASES, ObjectKey, own_key
from taper_operator.manager import Manager, WatchedKind
from taper_operator.settings.parsing import LeaseTimes
from taper_operator.settings.settings import settings_from

from .fake_api_server import JOBS, PODS, FakeApiServer, make_object

KINDS = (
    WatchedKind(resource=JOBS, keys_of=own_key),
    WatchedKind(
        resource=PODS,
        keys_of=lambda pod: [ObjectKey("team", pod["metadata"]["labels"]["job"])],
    ),
)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


class Running:
    """A replica in a thread."""

    def __init__(self, fake: FakeApiServer, reconcile: Reconcile | None = None, **options: Any) -> None:
        flags = ["--namespaces=*", "--identity=replica", "--namespace=taper", "--address=127.0.0.1:0"]
        flags += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.manager = Manager(settings_from(flags, {}), KINDS, make_client=lambda _: _client(fake))
        self.reconciled: list[ObjectKey] = []
        self.controller: Controller = self.manager.controller(reconcile or self._reconcile)
        self.exit_code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = self.controller.run()

    def _reconcile(self, key: ObjectKey) -> None:
        self.reconciled.append(key)

    def stop(self) -> float:
        """Returns the seconds that it took."""
        began = time.monotonic()
        self.controller.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return time.monotonic() - began

    def get(self, path: str) -> tuple[int, str]:
        wait_for(lambda: self.controller._server)
        connection = http.client.HTTPConnection("127.0.0.1", self.controller._server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def _client(fake: FakeApiServer) -> Any:
    client = fake.client()
    # What the fence for connections is put on.
    fake.pool_manager = urllib3.PoolManager()  # type: ignore[attr-defined]
    return client


@pytest.fixture
def fake() -> FakeApiServer:
    fake = FakeApiServer(JOBS, PODS, is_live=True)
    for name in "abc":
        fake.put(JOBS, make_object(JOBS, name))
    return fake


@pytest.fixture
def run(fake: FakeApiServer) -> Iterator[Callable[..., Running]]:
    replicas: list[Running] = []

    def start(reconcile: Reconcile | None = None, **options: Any) -> Running:
        replicas.append(Running(fake, reconcile, **options))
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.stop()


def keys(*names: str) -> set[ObjectKey]:
    return {ObjectKey("team", name) for name in names}


def test_a_leader_reconciles_all_existing_and_all_changed_objects(fake: FakeApiServer, run: Any) -> None:
    replica = run()
    wait_for(lambda: set(replica.reconciled) == keys("a", "b", "c"))
    assert len(replica.reconciled) == 3
    replica.reconciled.clear()
    fake.put(PODS, make_object(PODS, "worker", labels={"job": "b"}))
    wait_for(lambda: replica.reconciled == [ObjectKey("team", "b")])
    assert replica.manager.caches[PODS].of(ObjectKey("team", "b"))
    fake.remove(JOBS, ObjectKey("team", "c"))
    wait_for(lambda: replica.reconciled == [ObjectKey("team", "b"), ObjectKey("team", "c")])
    assert replica.stop() < 3
    assert replica.exit_code == 0


def test_a_follower_keeps_its_caches_filled_and_takes_over_when_the_leader_stops(
    fake: FakeApiServer, run: Any
) -> None:
    leader = run()
    wait_for(lambda: leader.reconciled)
    follower = run()
    wait_for(lambda: follower.get("/readyz")[0] == 200)
    wait_for(lambda: follower.manager.elector._claim.holder)
    assert follower.reconciled == []
    assert follower.get("/healthz")[0] == 200
    # Its last write takes a while, and is waited for.
    fake.fault = lambda method, path: time.sleep(0.2 if method == "PUT" else 0)
    assert leader.stop() < 3
    fake.fault = lambda method, path: None
    assert fake.all(LEASES)[ObjectKey("taper", "taper-operator")]["spec"]["holderIdentity"] == ""
    wait_for(lambda: set(follower.reconciled) == keys("a", "b", "c"), seconds=3)


def test_a_slow_api_server_does_not_keep_an_idle_leader_from_releasing_the_lease(
    fake: FakeApiServer, run: Any
) -> None:
    replica = run()
    wait_for(lambda: len(replica.reconciled) == 3)
    fake.fault = lambda method, path: time.sleep(1.1 if method == "PUT" else 0)
    assert replica.stop() < 3
    lease = fake.all(LEASES)[ObjectKey("taper", "taper-operator")]
    assert lease["spec"]["holderIdentity"] == ""
    timeouts = [query["timeout"] for method, path, query, _ in fake.requests if method == "PUT"]
    assert int(timeouts[-1].removesuffix("ms")) > 1_100


def test_a_replica_that_has_lost_the_lease_ends(
    fake: FakeApiServer, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    replica = run(lease_seconds="3/0.3/0.1")
    wait_for(lambda: replica.reconciled)
    key = ObjectKey("taper", "taper-operator")
    lease = fake.all(LEASES)[key]
    fake.put(LEASES, lease | {"spec": lease["spec"] | {"holderIdentity": "another"}})
    replica.thread.join(5)
    assert replica.exit_code == 1
    assert "the lease was lost" in caplog.text
    assert fake.all(LEASES)[key]["spec"]["holderIdentity"] == "another"


def test_writes_of_a_replica_that_does_not_lead_are_not_sent(fake: FakeApiServer, run: Any) -> None:
    leader = run()
    wait_for(lambda: leader.reconciled)
    follower = run()
    wait_for(lambda: follower.get("/readyz")[0] == 200)
    with pytest.raises(api_error.NotLeader):
        follower.manager.writer.create(JOBS, make_object(JOBS, "mine"))
    leader.manager.writer.create(JOBS, make_object(JOBS, "mine"))
    assert ObjectKey("team", "mine") in fake.all(JOBS)


def test_a_worker_that_does_not_lead_reconciles_nothing(run: Any, fake: FakeApiServer) -> None:
    """Such as one that took a key right before its process was stopped."""
    settings = settings_from(["--namespaces=*", "--identity=x", "--namespace=y"], {})
    manager = Manager(settings, KINDS, make_client=lambda _: _client(fake))
    reconciled: list[ObjectKey] = []
    controller = manager.controller(reconciled.append)
    worker = threading.Thread(target=controller._work)
    worker.start()
    manager.queue.add(ObjectKey("team", "a"))
    wait_for(lambda: manager.queue.depth() == 0 and manager.queue.longest_handled_seconds() == 0)
    manager.queue.shut_down()
    worker.join(10)
    assert reconciled == []


FAILURES = [
    api_error.Conflict("stale"),
    api_error.ServerError("internal"),
    api_error.TooManyRequests("slow down", retry_after_seconds=0.1),
    KeyError("a mistake of ours"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failed_key_is_reconciled_again(failure: Exception, run: Any) -> None:
    attempts: list[ObjectKey] = []

    def reconcile(key: ObjectKey) -> None:
        attempts.append(key)
        if key.name == "a" and attempts.count(key) == 1:
            raise failure

    replica = run(reconcile, workers=1)
    wait_for(lambda: attempts.count(ObjectKey("team", "a")) == 2)
    assert set(attempts) == keys("a", "b", "c")
    status, text = replica.get("/metrics")
    assert status == 200
    assert 'taper_operator_reconciles_total{result="success"}' in text


def test_a_requested_requeue_happens(run: Any) -> None:
    attempts: list[ObjectKey] = []

    def reconcile(key: ObjectKey) -> float | None:
        attempts.append(key)
        return 0.05 if key.name == "b" else None

    run(reconcile)
    wait_for(lambda: attempts.count(ObjectKey("team", "b")) >= 3)
    assert attempts.count(ObjectKey("team", "a")) == 1


def test_the_lease_is_not_released_while_a_reconcile_is_under_way(fake: FakeApiServer, run: Any) -> None:
    begun, over = threading.Event(), threading.Event()

    def reconcile(key: ObjectKey) -> None:
        begun.set()
        over.wait(20)

    replica = run(reconcile, workers=1)
    assert begun.wait(20)
    assert replica.stop() < 3
    assert replica.exit_code == 0
    lease = fake.all(LEASES)[ObjectKey("taper", "taper-operator")]
    assert lease["spec"]["holderIdentity"] == replica.manager.elector.identity
    over.set()


def test_no_replica_leads_before_its_caches_are_filled(fake: FakeApiServer, run: Any) -> None:
    del fake.resources["api/v1/pods"]
    replica = run()
    wait_for(lambda: replica.get("/readyz")[0] == 503)
    assert "not synced: pods" in replica.get("/readyz")[1]
    assert replica.get("/healthz")[0] == 200
    assert fake.all(LEASES) == {}


def test_a_follower_survives_an_outage(fake: FakeApiServer, run: Any) -> None:
    leader = run()
    wait_for(lambda: leader.reconciled)
    follower = run()
    wait_for(lambda: follower.manager.elector._claim.holder)

    def refuse(method: str, path: str) -> None:
        raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]

    fake.fault = refuse
    wait_for(lambda: "taper_operator_api_server_reachable 0.0" in follower.get("/metrics")[1])
    assert follower.get("/healthz")[0] == 200
    assert follower.get("/readyz")[0] == 200
    fake.fault = lambda method, path: None


def test_a_thread_that_has_ended_ends_the_process(run: Any) -> None:
    replica = run()
    wait_for(lambda: replica.reconciled)
    replica.manager.reflectors[0].stop()
    replica.thread.join(10)
    assert replica.exit_code == 1


def test_a_stuck_reconcile_is_unhealthy(run: Any) -> None:
    replica = run()
    wait_for(lambda: replica.reconciled)
    replica.manager.queue.longest_handled_seconds = lambda: 601.0
    status, text = replica.get("/healthz")
    assert (status, text) == (503, "stuck: a reconcile does not finish\n")


def test_metrics_show_queue_caches_and_leader(run: Any) -> None:
    replica = run()
    wait_for(lambda: len(replica.reconciled) == 3)
    text = replica.get("/metrics")[1]
    for line in (
        "taper_operator_leader 1.0",
        "taper_operator_api_server_reachable 1.0",
        "taper_operator_queue_depth 0.0",
        'taper_operator_cache_objects{kind="rlhfjobs.taper.dev"} 3.0',
        'taper_operator_cache_synced{kind="pods"} 1.0',
        'taper_operator_api_requests_total{method="POST",status="201"} 1.0',
    ):
        assert line in text


def test_an_unreadable_object_gets_an_event_and_a_metric_and_delays_nothing(
    fake: FakeApiServer, run: Any
) -> None:
    """Here a pod without a label that its kind must have; one in the first list, one in the watch."""
    fake.put(PODS, make_object(PODS, "listed"))
    replica = run()
    wait_for(lambda: len(replica.reconciled) == 3)
    fake.put(PODS, make_object(PODS, "watched"))
    fake.put(PODS, make_object(PODS, "right", labels={"job": "of-a-pod"}))
    wait_for(lambda: ObjectKey("team", "of-a-pod") in replica.reconciled)
    assert replica.get("/readyz") == (200, "ok\n")
    text = replica.get("/metrics")[1]
    assert 'taper_operator_unreadable_objects{kind="pods"} 2.0' in text
    assert 'taper_operator_unreadable_objects{kind="rlhfjobs.taper.dev"} 0.0' in text
    events = fake.all(EVENTS).values()
    assert sorted(each["regarding"]["name"] for each in events) == ["listed", "watched"]
    assert {(each["type"], each["reason"]) for each in events} == {("Warning", "Unreadable")}
    assert all("KeyError('labels')" in each["note"] for each in events)
    fake.remove(PODS, ObjectKey("team", "listed"))
    wait_for(lambda: 'unreadable_objects{kind="pods"} 1.0' in replica.get("/metrics")[1])


def test_a_cache_that_is_out_of_date_is_not_ready(run: Any) -> None:
    replica = run()
    wait_for(lambda: replica.get("/readyz")[0] == 200)
    reflector = replica.manager.reflectors[1]
    reflector._failing_since = time.monotonic() - 91
    assert replica.get("/readyz") == (503, "out of date for 91 s: pods of all namespaces\n")
    assert replica.get("/healthz")[0] == 200


def test_only_the_writers_connections_are_fenced(fake: FakeApiServer) -> None:
    pools: list[Any] = []

    def make_client(kubeconfig: str) -> Any:
        client = _client(fake)
        pools.append(client.rest_client.pool_manager)
        return client

    settings = settings_from(["--namespaces=*", "--identity=x", "--namespace=y"], {})
    Manager(settings, KINDS, make_client=make_client)
    stock = urllib3.PoolManager().pool_classes_by_scheme
    assert [pool.pool_classes_by_scheme is stock for pool in pools] == [True, True, False]


def test_a_manager_has_a_reflector_for_each_kind_and_namespace(fake: FakeApiServer) -> None:
    settings = settings_from(["--namespaces=one,two", "--identity=x", "--namespace=y"], {})
    manager = Manager(settings, KINDS, make_client=lambda _: _client(fake))
    assert [(str(each.resource), each.namespace) for each in manager.reflectors] == [
        ("rlhfjobs.taper.dev", "one"),
        ("rlhfjobs.taper.dev", "two"),
        ("pods", "one"),
        ("pods", "two"),
    ]
    assert settings.lease_times == LeaseTimes()
