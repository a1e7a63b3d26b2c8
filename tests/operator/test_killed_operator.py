"""A job's whole life, with the operator killed before and after each of its writes: the same comes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import EVENTS, KubeObject, ObjectKey
from taper_operator.main import watched_kinds
from taper_operator.manifests.kinds import (
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_JOBS,
    RLHF_JOBS,
)
from taper_operator.manifests.names import ATTEMPT_LABEL, DIGEST_ANNOTATION, JOB_LABEL, JOB_UID_LABEL
from taper_operator.observation.observer import Observer
from taper_operator.reconcile.executor import Executor
from taper_operator.reconcile.reconciler import Reconciler

from .clock import Clock
from .fake_api_server import FakeApiServer
from .job_objects import NOW, POLICY, resource
from .reconcile.test_executor import CLAIM, KEY, KINDS

WRITES = ("POST", "PUT", "PATCH", "DELETE")
MOST_ROUNDS = 8
TTL_SECONDS = 60
SHARED = ObjectKey("team", "taper-full")
POD = ObjectKey("team", "full-2-abcde-0")


class Killed(BaseException):
    """What ends a process is caught by nothing in it."""


class World:
    """An API server, and the time, which stands still but for what a chapter says. Operators come and go."""

    def __init__(self, fake: FakeApiServer, now: datetime) -> None:
        self.fake = fake
        self.now = now

    def copy(self) -> World:
        fake = FakeApiServer(*KINDS)
        fake.version = self.fake.version
        fake.objects, fake.applied = copy.deepcopy((self.fake.objects, self.fake.applied))
        return World(fake, self.now)

    def settle(self) -> None:
        """Have a new operator, which knows what it sees and no more, work until there is nothing to do."""
        server, caches = self.fake.api_server(), {}
        for kind in watched_kinds():
            caches[kind.resource] = ObjectCache(keys_of=kind.keys_of)
        reconcile = Reconciler(
            Observer(server, caches, is_served=lambda kind: True, clock=Clock()),
            Executor(server, instance="replica", clock=lambda: self.now),
            policy=lambda: POLICY,
            clock=lambda: self.now,
        )
        for _ in range(MOST_ROUNDS):
            before = self.num_writes
            for kind, cache in caches.items():
                cache.replace(self.fake.all(kind).values())
            reconcile(KEY)
            if self.num_writes == before:
                return
        raise AssertionError("it finds no end")

    @property
    def num_writes(self) -> int:
        return sum(method in WRITES for method, *_ in self.fake.requests)

    def state(self) -> dict[Any, KubeObject]:
        """All objects except events, without the fields that the API server generates."""
        return {
            (str(kind), key): _without_generated_fields(obj)
            for (kind, key), obj in self.fake.objects.items()
            if kind != EVENTS
        }

    def events(self) -> list[tuple[str, str]]:
        return sorted((event["reason"], event["note"]) for event in self.fake.all(EVENTS).values())

    # -- what happens ------------------------------------------------------------------

    def change(self, kind: Any, key: ObjectKey, change: Callable[[KubeObject], object]) -> None:
        obj = copy.deepcopy(self.fake.objects[kind, key])
        change(obj)
        self.fake.put(kind, obj)

    def say(self, **status: Any) -> None:
        """As KubeRay about the one RayJob that is there."""
        (key,) = self.fake.all(RAY_JOBS)
        self.change(RAY_JOBS, key, lambda obj: obj.setdefault("status", {}).update(status))

    def run_job(self) -> None:
        (key,) = self.fake.all(RAY_JOBS)
        self.say(jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{key.name}-abcde")

    def suspend(self, *, is_suspended: bool) -> None:
        self.change(RLHF_JOBS, KEY, lambda obj: obj["spec"].update(suspend=is_suspended))

    def disturb(self) -> None:
        """Change an object that all attempts share, as a user would."""
        changed = {DIGEST_ANNOTATION: "other"}
        self.change(NETWORK_POLICIES, SHARED, lambda obj: obj["metadata"]["annotations"].update(changed))
        self.fake.remove(POD_MONITORS, SHARED)

    def take_pod(self) -> None:
        """A pod is about to be evicted, and the job hangs."""
        self.run_job()
        uid = self.fake.objects[RLHF_JOBS, KEY]["metadata"]["uid"]
        labels = {JOB_LABEL: KEY.name, JOB_UID_LABEL: uid, ATTEMPT_LABEL: "2"}
        target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        metadata = {"name": POD.name, "namespace": POD.namespace, "labels": labels}
        self.fake.put(PODS, {"metadata": metadata, "status": {"conditions": [target]}})

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def _without_generated_fields(obj: KubeObject) -> KubeObject:
    made_up = ("uid", "resourceVersion")
    return obj | {"metadata": {name: each for name, each in obj["metadata"].items() if name not in made_up}}


# In this order. With the phase of the job afterwards, and the number of writes that it takes.
CHAPTERS: dict[str, tuple[Callable[[World], object], str, int]] = {
    "is applied": (lambda world: None, "Starting", 9),
    "runs": (lambda world: world.run_job(), "Running", 2),
    "is disturbed": (lambda world: world.disturb(), "Running", 2),
    "fails": (lambda world: world.say(jobDeploymentStatus="Failed", jobStatus="FAILED"), "Backoff", 4),
    "is tried again": (lambda world: world.wait(60), "Starting", 7),
    "loses a pod": (lambda world: world.take_pod(), "Running", 4),
    "is ended for it": (lambda world: world.wait(10), "Backoff", 3),
    "waits for the pod": (lambda world: world.wait(60), "Backoff", 0),
    "is tried once more": (lambda world: world.fake.remove(PODS, POD), "Starting", 7),
    "is suspended": (lambda world: world.suspend(is_suspended=True), "Suspended", 5),
    "is resumed": (lambda world: world.suspend(is_suspended=False), "Starting", 7),
    "succeeds": (
        lambda world: world.say(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"),
        "Complete",
        3,
    ),
    "has had its time": (lambda world: world.wait(TTL_SECONDS), "", 1),
}


@pytest.fixture(scope="module")
def life() -> dict[str, tuple[World, World]]:
    """The world at the beginning of each chapter, with what has just happened, and at its end."""
    fake = FakeApiServer(*KINDS)
    fake.put(RLHF_JOBS, resource(CLAIM | {"spec.ttlSecondsAfterFinished": TTL_SECONDS}))
    world = World(fake, NOW)
    chapters = {}
    for name, (happens, *_) in CHAPTERS.items():
        world = world.copy()
        happens(world)
        begin = world.copy()
        world.settle()
        chapters[name] = (begin, world)
    return chapters


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_fields_that_are_written(life: dict[str, tuple[World, World]], chapter: str) -> None:
    _, phase, num_writes = CHAPTERS[chapter]
    end = life[chapter][1]
    assert end.fake.objects.get((RLHF_JOBS, KEY), {"status": {"phase": ""}})["status"]["phase"] == phase
    assert end.num_writes == num_writes, [request[:2] for request in end.fake.requests]


@pytest.mark.parametrize("moment", ["", "after "])
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_operator_killed_at_any_write_reaches_the_same_result(
    life: dict[str, tuple[World, World]], chapter: str, moment: str
) -> None:
    begin, end = life[chapter]
    for nth in range(end.num_writes):
        world = begin.copy()
        kill_at(world, nth, moment)
        with pytest.raises(Killed):
            world.settle()
        world.fake.fault = lambda method, path: None
        world.settle()
        assert world.state() == end.state()
        # An event that was not recorded before the end is lost, and none is recorded twice.
        unrecorded = end.events()
        for event in world.events():
            unrecorded.remove(event)


def kill_at(world: World, nth: int, moment: str) -> None:
    """Have the operator killed before or after its nth write."""
    writes = iter(range(nth + 1))

    def fault(method: str, path: str) -> None:
        if method in {f"{moment}{verb}" for verb in WRITES} and next(writes) == nth:
            raise Killed

    world.fake.fault = fault
