"""Plans carried out against an API server, in full, in part and not at all."""

from __future__ import annotations

from typing import Any

import pytest

from taper_operator.kube.errors import Conflict
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import EVENTS, ObjectKey
from taper_operator.main import watched_kinds
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    DEFINITIONS,
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RLHF_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.observation.observer import Observer
from taper_operator.reconcile.executor import Executor
from taper_operator.reconcile.reconciler import Reconciler

from ..clock import Clock
from ..fake_api_server import FakeApiServer, make_object
from ..job_objects import NOW, POLICY, resource

KINDS = (
    RLHF_JOBS,
    RAY_JOBS,
    RAY_CLUSTERS,
    PODS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    NETWORK_POLICIES,
    POD_MONITORS,
    CLAIMS,
    DEFINITIONS,
)
KEY = ObjectKey("team", "full")
CLAIM = {"spec.volumes": {"checkpoints": {"size": "1Ti"}}}


class Operator:
    """An operator with caches that are filled when a test says so."""

    def __init__(self, changes: dict[str, Any] | None = None) -> None:
        self.fake = FakeApiServer(*KINDS)
        self.fake.put(RLHF_JOBS, resource(changes))
        self.caches = {kind.resource: ObjectCache(keys_of=kind.keys_of) for kind in watched_kinds()}
        self.now = NOW
        server = self.fake.api_server()
        self.observer = Observer(server, self.caches, is_served=lambda kind: True, clock=Clock())
        self.executor = Executor(server, instance="replica", clock=lambda: self.now)
        self.reconcile = Reconciler(
            self.observer, self.executor, policy=lambda: POLICY, clock=lambda: self.now
        )
        self.refresh()

    def refresh(self) -> None:
        for kind, cache in self.caches.items():
            cache.replace(self.fake.all(kind).values())

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.fake.objects[RLHF_JOBS, KEY]["status"]
        return status


def test_an_attempt_begins() -> None:
    operator = Operator(CLAIM)
    operator.reconcile(KEY)
    assert operator.status["attempt"] == 1
    for kind in (RAY_JOBS, CONFIG_MAPS, SERVICE_ACCOUNTS, NETWORK_POLICIES, POD_MONITORS, CLAIMS):
        assert len(operator.fake.all(kind)) == 1, kind
    assert [event["reason"] for event in operator.fake.all(EVENTS).values()] == ["AttemptStarted"]


def test_an_outdated_cache_creates_no_second_ray_job() -> None:
    operator = Operator()
    operator.reconcile(KEY)
    with pytest.raises(Conflict):  # the caches still say that there is nothing
        operator.reconcile(KEY)
    operator.refresh()
    operator.reconcile(KEY)
    assert len(operator.fake.all(RAY_JOBS)) == 1
    assert operator.status["attempt"] == 1


def test_a_job_that_has_changed_since_is_left_as_it_is() -> None:
    operator = Operator()
    observed = operator.observer.fresh(KEY)
    assert observed is not None
    operator.fake.put(RLHF_JOBS, operator.fake.objects[RLHF_JOBS, KEY])
    from taper_operator.reconcile.plan import plan

    with pytest.raises(Conflict):
        operator.executor.execute(plan(observed, POLICY, NOW), observed.resource)
    assert operator.fake.all(RAY_JOBS) == operator.fake.all(EVENTS) == {}


def test_an_existing_claim_is_accepted() -> None:
    operator = Operator(CLAIM)
    operator.fake.put(CLAIMS, make_object(CLAIMS, "full-checkpoints"))
    operator.reconcile(KEY)
    assert len(operator.fake.all(RAY_JOBS)) == 1


def test_a_service_account_of_anothers_is_never_used() -> None:
    operator = Operator()
    operator.fake.put(SERVICE_ACCOUNTS, make_object(SERVICE_ACCOUNTS, "taper-full"))
    with pytest.raises(Conflict):
        operator.reconcile(KEY)
    assert operator.fake.all(RAY_JOBS) == {}


def test_events_are_recorded_even_if_an_action_fails() -> None:
    operator = Operator()
    operator.fake.put(CONFIG_MAPS, make_object(CONFIG_MAPS, "full-1"))
    with pytest.raises(Conflict):
        operator.reconcile(KEY)
    assert operator.status["attempt"] == 1
    assert [event["reason"] for event in operator.fake.all(EVENTS).values()] == ["AttemptStarted"]


def test_a_deleted_job_needs_no_action() -> None:
    operator = Operator()
    operator.fake.remove(RLHF_JOBS, KEY)
    assert operator.reconcile(KEY) is None
    operator.refresh()
    assert operator.reconcile(KEY) is None


def test_jobs_without_reports_are_not_written() -> None:
    operator = Operator()
    for _ in range(3):
        operator.reconcile(KEY)
        operator.refresh()
    before = len(operator.fake.requests)
    operator.reconcile(KEY)
    assert len(operator.fake.requests) == before


def test_an_old_kuberay_is_reported() -> None:
    operator = Operator()
    operator.fake.put(
        DEFINITIONS,
        {"metadata": {"name": "rayjobs.ray.io"}, "spec": {"versions": [{"name": "v1", "served": True}]}},
    )
    operator.reconcile(KEY)
    (ready,) = (c for c in operator.status["conditions"] if c["type"] == "ClusterReady")
    assert ready["reason"] == "KubeRayTooOld"
