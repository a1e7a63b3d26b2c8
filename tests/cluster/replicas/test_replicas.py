"""Two replicas of the operator: one leads, the other follows at once, and never do both write."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from random import Random

from taper_operator.kube.resource import LEASES

from ..control_plane.audit_log import WRITES, Request, requests_of
from ..control_plane.cluster import wait_for
from ..control_plane.relay import Relay
from ..scenarios.figures import check
from ..scenarios.job_sandbox import JobSandbox, Stopwatch
from ..scenarios.operator_process import Installation, OperatorProcess
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario
from .lease_takeover import takeover_seconds

# From the last write of a leader to its successor's first one, without the API server's own time.
KILLED_SECONDS = 15.0
RELEASED_SECONDS = 3.0
# From a signal to the release of the Lease.
ENDED_SECONDS = 3.0
# The deadline of waits for a successor, however slow the machine is.
SUCCESSOR_SECONDS = 60.0
STOPPED_SECONDS = 30.0
OUTAGE_SECONDS = 60.0
CONVERGED_SECONDS = 30.0
MOST_CONNECTIONS = 10
# Logged by a leader that ends.
RELEASED = "the lease was released"


class ReplicaGroup:
    """The replicas of an installation. leader, follower: the two that live"""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._all: list[OperatorProcess] = []
        self.leader = self.enter()
        installation.wait_for_leader(self.leader)
        self.follower = self.enter()
        self.follower.wait_until_ready()

    def enter(self, url: str = "") -> OperatorProcess:
        """Another replica, which must be synced before it is of use."""
        replica = self.installation.replica(url)
        self._all.append(replica)
        return replica

    def succeed(self) -> None:
        """The follower leads, and another follows it."""
        self.leader, self.follower = self.follower, self.enter()
        self.follower.wait_until_ready()

    def wait_for_successor(self) -> None:
        wait_for(
            lambda: self.installation.leader() == self.follower.name,
            SUCCESSOR_SECONDS,
            why=self.follower.last_words,
        )

    def takeover_seconds(self) -> float:
        """From the leader's last write of the Lease to the follower's first one."""
        return wait_for(
            lambda: takeover_seconds(
                requests_of_group(self), self.leader.credential, self.follower.credential
            ),
            why=self.follower.last_words,
        )

    def leave(self) -> None:
        for each in self._all:
            each.kill()


@contextmanager
def replica_group(shared: SharedOperator, name: str) -> Iterator[tuple[ReplicaGroup, JobSandbox]]:
    namespace = shared.cluster.new_namespace(name)
    group = ReplicaGroup(Installation(shared.cluster, [namespace]))
    try:
        yield group, JobSandbox(shared.cluster, shared.jobs, namespace, "job", num_nodes=4)
    finally:
        group.leave()


@scenario
def a_killed_leader_is_replaced_and_nothing_is_done_twice(shared: SharedOperator) -> None:
    random = Random(5)
    with replica_group(shared, "killed") as (group, sandbox):
        names = [f"job-{number}" for number in range(5)]
        for name in names:
            sandbox.apply(name)
            time.sleep(random.uniform(0, 0.5))
            group.leader.kill()
            group.wait_for_successor()
            check(
                "last renewal of a killed leader to the next one, s",
                group.takeover_seconds(),
                KILLED_SECONDS,
            )
            group.succeed()
        for name in names:
            status = sandbox.wait_for_attempt(1, name=name)
            assert [each["number"] for each in status["attempts"]] == [1]
            reasons = sandbox.events(name)
            assert len(reasons) == len(set(reasons)), reasons
        each_ray_job_was_made_once(group, len(names))
        a_leader_that_ends_lets_another_lead_at_once(group)


def each_ray_job_was_made_once(group: ReplicaGroup, number: int) -> None:
    """By the audit log: no two requests made the same one.

    Where a replica is killed while it waits for an answer, the API server logs 504 whether it made the object
    or not: such a request may be the one that made it.
    """
    requests = [each for each in requests_of_group(group) if each.right == ("create", "ray.io", "rayjobs")]
    made = Counter(each.name for each in requests if each.status == 201)
    cut_off = {each.name for each in requests if each.status == 504}
    assert max(made.values()) == 1, made
    assert len(made.keys() | cut_off) == number, requests


def a_leader_that_ends_lets_another_lead_at_once(group: ReplicaGroup) -> None:
    signalled_at = time.time()
    group.leader.send(signal.SIGTERM)
    assert group.leader.wait(SUCCESSOR_SECONDS) == 0
    assert RELEASED in group.leader.last_words()
    group.wait_for_successor()
    writes = [each for each in requests_of_group(group) if is_of(each, group.leader) and is_of_lease(each)]
    check("SIGTERM of the leader to the release of the Lease, s", writes[-1].at - signalled_at, ENDED_SECONDS)
    check("release of the Lease to the next leader, s", group.takeover_seconds(), RELEASED_SECONDS)


@scenario
def a_leader_that_was_stopped_writes_nothing_after_its_successor(shared: SharedOperator) -> None:
    with replica_group(shared, "stopped") as (group, sandbox):
        # It is suspended during work, and finds more when it resumes.
        for number in range(6):
            sandbox.apply(f"job-{number}")
        group.leader.send(signal.SIGSTOP)
        watch = Stopwatch()
        sandbox.apply("job-6")
        group.wait_for_successor()
        time.sleep(max(0.0, STOPPED_SECONDS - watch()))
        group.leader.send(signal.SIGCONT)
        assert group.leader.wait(10) == 1
        sandbox.wait_for_ray_job(1, name="job-6")
        writes = [each for each in requests_of_group(group) if each.verb in WRITES]
        began = min(each.at for each in writes if is_of(each, group.follower) and each.status < 300)
        late = [each for each in writes if is_of(each, group.leader) and each.at >= began]
        check("writes of a leader that was stopped after its successor's first", len(late), 0)
        assert any(is_of(each, group.leader) for each in writes)
        for number in range(7):
            sandbox.wait_for_attempt(1, name=f"job-{number}")


@scenario
def an_outage_of_the_api_server_is_survived(shared: SharedOperator) -> None:
    cluster = shared.cluster
    namespace = cluster.new_namespace("outage")
    installation = Installation(cluster, [namespace])
    sandbox = JobSandbox(cluster, shared.jobs, namespace, "job", num_nodes=2)
    relays = [Relay(cluster.plane.port) for _ in range(3)]
    replicas: list[OperatorProcess] = []
    try:
        for relay in relays[:2]:
            replicas.append(installation.replica(relay.url))
            replicas[-1].wait_until_ready()
        leader = replicas[0]
        installation.wait_for_leader(leader)
        sandbox.apply()
        sandbox.wait_for_attempt(1)
        for relay in relays:
            relay.cut()
        watch = Stopwatch()
        sandbox.apply("job-2")
        # A leader that cannot renew its lease exits, and its container is restarted.
        assert leader.wait(15) == 1
        refused_of_leader = relays[0].num_refused
        replicas.append(installation.replica(relays[2].url))
        time.sleep(max(0.0, OUTAGE_SECONDS - watch()))
        # Read first: querying replicas may take seconds, which would lengthen the minute.
        refused = (refused_of_leader, *(relay.num_refused for relay in relays[1:]))
        for replica in replicas[1:]:
            assert replica.is_alive, replica.last_words()
            assert replica.page("/healthz") is not None
        for num_refused in refused:
            check("connections tried by a replica in a minute's outage", num_refused, MOST_CONNECTIONS)
        assert sandbox.ray_job(1, "job-2") is None
        for relay in relays:
            relay.mend()
        watch = Stopwatch()
        sandbox.wait_for_ray_job(1, CONVERGED_SECONDS + 5, "job-2")
        check("end of an outage to the RayJob that was due, s", watch(), CONVERGED_SECONDS)
        sandbox.wait_for_attempt(1, name="job-2")
        assert sandbox.status()["attempt"] == 1
    finally:
        for replica in replicas:
            replica.kill()
        for relay in relays:
            relay.close()


def requests_of_group(group: ReplicaGroup) -> list[Request]:
    installation = group.installation
    return requests_of(installation.cluster.plane.audit_log, installation.user)


def is_of_lease(request: Request) -> bool:
    return request.resource == LEASES.plural and request.verb in WRITES


def is_of(request: Request, replica: OperatorProcess) -> bool:
    return request.credential == replica.credential


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
