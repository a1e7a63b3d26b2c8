"""A hundred jobs with random sequences of events: all end as expected, and leave nothing.

What happens is drawn from a seed, which is the job's number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import CONFIG_MAPS, PODS, RAY_CLUSTERS, RAY_JOBS, RLHF_JOBS
from taper_operator.manifests.names import ATTEMPT_LABEL

from ..control_plane.cluster import wait_for
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.mirror import Mirror
from ..scenarios.operator_process import LONG_LEASE, Installation
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario

NUM_SEQUENCES = 100
NUM_AT_A_TIME = 34
# Each waits longer than the one before it.
MOST_SETBACKS = 2
CONVERGED_SECONDS = 120.0
# Kubernetes notices a lost node late: the first few jobs lose theirs, all at the same time.
NUM_LOSING_NODES = 4
NODE_SECONDS = 60.0
LOSS = "delete the node"


class Sequence:
    """What happens to one job, on nodes of its own."""

    def __init__(self, shared: SharedOperator, namespace: str, mirror: Mirror, number: int) -> None:
        self.sandbox = JobSandbox(shared.cluster, shared.jobs, namespace, f"job-{number}", num_nodes=0)
        self.mirror = mirror
        self.name = self.sandbox.name
        self.random = Random(number)
        self.loses_node = number < NUM_LOSING_NODES
        self.done: list[str] = []
        self._steps: dict[str, Callable[[], object]] = {
            "suspend": lambda: self.apply(suspend=True),
            "resume": lambda: self.apply(suspend=False),
            "apply again": self.apply,
            "delete and apply": self.delete_and_apply,
        }
        self._setbacks: dict[str, Callable[[], object]] = {
            "fail": lambda: self.end("FAILED"),
            "evict": lambda: self.evict(PODS),
            "delete a pod": lambda: self.delete(PODS),
            "delete the RayJob": lambda: self.delete(RAY_JOBS),
            "delete the RayCluster": lambda: self.delete(RAY_CLUSTERS),
            "taint the node": self.taint_node,
            "preempt": self.preempt,
            LOSS: self.delete_node,
        }

    def play(self) -> None:
        self.sandbox.new_node()
        try:
            self.go_through(self.setbacks())
        finally:
            for node in self.sandbox.nodes:
                self.sandbox.delete_node(node)

    def setbacks(self) -> list[str]:
        others = sorted(set(self._setbacks) - {LOSS})
        drawn = self.random.sample(others, self.random.randint(0, MOST_SETBACKS))
        return [LOSS, *drawn[1:]] if self.loses_node else drawn

    def go_through(self, setbacks: list[str]) -> None:
        self.apply()
        steps = [*setbacks, *self.random.choices(sorted(self._steps), k=self.random.randint(1, 2))]
        self.random.shuffle(steps)
        for step in steps:
            time.sleep(self.random.uniform(0, 5))
            self.done.append(step)
            (self._steps | self._setbacks)[step]()
        try:
            self.converge()
        except AssertionError as error:
            error.add_note(f"{self.name}: {self.done}: {self.job()['status']}")
            raise

    def converge(self) -> None:
        """It completes once nothing happens any more, and leaves nothing."""
        self.apply(suspend=False)
        wait_for(self.is_complete, CONVERGED_SECONDS + NODE_SECONDS * self.loses_node)
        status = self.job()["status"]
        outcomes = [each["outcome"] for each in status["attempts"]]
        assert outcomes[-1] == "Succeeded"
        assert "Active" not in outcomes
        assert outcomes.count("Failed") == status["failures"]
        assert outcomes.count("Disrupted") == status["disruptions"]
        assert [each["number"] for each in status["attempts"]] == list(range(1, len(outcomes) + 1))
        assert {each["metadata"]["name"] for each in self.made(CONFIG_MAPS)} == {
            f"{self.name}-{len(outcomes)}"
        }
        self.sandbox.cluster.delete(RLHF_JOBS, self.job())
        wait_for(lambda: not self.mirror.remains(self.sandbox.namespace, self.name), CONVERGED_SECONDS)

    # -- steps -------------------------------------------------------------------------------

    def apply(self, *, suspend: bool | None = None) -> None:
        changes: dict[str, Any] = {} if suspend is None else {"spec.suspend": suspend}
        self.sandbox.apply(self.name, changes)

    def delete_and_apply(self) -> None:
        self.sandbox.cluster.delete(RLHF_JOBS, self.sandbox.job(self.name))
        wait_for(lambda: self.sandbox.cluster.found(RLHF_JOBS, self.sandbox.namespace, self.name) is None)
        self.apply()

    def end(self, status: str) -> None:
        for ray_job in self.made(RAY_JOBS):
            job_id = ray_job.get("status", {}).get("jobId")
            if job_id:
                self.sandbox.jobs.end(job_id, status)

    def evict(self, kind: Any) -> None:
        for pod in self.made(kind)[:1]:
            self.sandbox.cluster.evict(pod)

    def delete(self, kind: Any) -> None:
        for obj in self.random.sample(self.made(kind), min(1, len(self.made(kind)))):
            self.sandbox.cluster.delete(kind, obj)

    def taint_node(self) -> None:
        self.sandbox.cluster.taint(self.sandbox.nodes[-1], "NoExecute")
        self.sandbox.new_node()

    def preempt(self) -> None:
        self.sandbox.preempt()
        # Else there would be room for both.
        time.sleep(1)
        self.sandbox.new_node()

    def delete_node(self) -> None:
        self.sandbox.delete_node(self.sandbox.nodes[-1])
        self.sandbox.new_node()

    # -- seeing ------------------------------------------------------------------------------

    def job(self) -> KubeObject:
        return self.mirror.found(RLHF_JOBS, self.sandbox.namespace, self.name) or {"status": {}}

    def made(self, kind: Any) -> list[KubeObject]:
        return self.mirror.made(kind, self.sandbox.namespace, self.name)

    def is_complete(self) -> bool:
        """Whether it is; a job that runs is let succeed. Of two attempts never both have pods."""
        time.sleep(0.2)
        attempts = {pod["metadata"]["labels"][ATTEMPT_LABEL] for pod in self.made(PODS)}
        assert len(attempts) <= 1, attempts
        status = self.job().get("status", {})
        if status.get("phase") == "Running":
            self.end("SUCCEEDED")
        assert status.get("phase") != "Failed"
        return status.get("phase") == "Complete"


@scenario
def a_hundred_random_sequences_converge(shared: SharedOperator) -> None:
    namespace = shared.cluster.new_namespace("sequences")
    mirror = Mirror(shared.cluster.new_api(), namespace)
    mirror.start()
    try:
        with (
            Installation(shared.cluster, [namespace], [LONG_LEASE]).running(),
            ThreadPoolExecutor(NUM_AT_A_TIME) as threads,
        ):
            under_way = [
                threads.submit(Sequence(shared, namespace, mirror, number).play)
                for number in range(NUM_SEQUENCES)
            ]
            for future in under_way:
                future.result()
    finally:
        mirror.stop()


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
