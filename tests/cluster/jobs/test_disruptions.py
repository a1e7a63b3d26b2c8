"""What the cluster does to jobs: none of it is the job's failure, and the next attempt begins soon."""

from __future__ import annotations

from concurrent.futures import Future

from taper_operator.manifests.kinds import PODS, RAY_JOBS

from ..control_plane.cluster import wait_for
from ..fakes.fake_kueue import admit, evict
from ..scenarios.figures import check
from ..scenarios.job_sandbox import JobSandbox, Stopwatch, sandboxed
from ..scenarios.scenarios import RESULT_SECONDS, each_scenario_of

# From the disruption of an attempt until the RayJob of the next one exists.
NEXT_SECONDS = 60.0
# Kubernetes checks for pods without a node every 20 s and deletes them 40 s after it first finds them; after
# a failed request it waits as long again. The operator cannot change that.
POD_GC_SECONDS = 180.0


@sandboxed
def a_tainted_node_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    (pod,) = sandbox.pods(1, "gpu")
    watch = Stopwatch()
    sandbox.cluster.taint(pod["spec"]["nodeName"], "NoExecute")
    follows(sandbox, "NoExecute taint", watch)
    sandbox.new_node()
    disrupted(sandbox, "DeletionByTaintManager")


@sandboxed
def an_eviction_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    (pod,) = sandbox.pods(1, "gpu")
    watch = Stopwatch()
    sandbox.cluster.evict(pod)
    follows(sandbox, "eviction", watch)
    disrupted(sandbox, "EvictionByEvictionAPI")


@sandboxed
def a_preemption_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    watch = Stopwatch()
    sandbox.preempt()
    follows(sandbox, "preemption", watch)
    sandbox.new_node()
    disrupted(sandbox, "PreemptionByScheduler")


@sandboxed
def a_deleted_node_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    (pod,) = sandbox.pods(1, "gpu")
    sandbox.delete_node(pod["spec"]["nodeName"])
    watch = orphans_are_deleted(sandbox)
    follows(sandbox, "deletion of a node's pods", watch)
    sandbox.new_node()
    disrupted(sandbox, "DeletionByPodGC")


@sandboxed
def a_deleted_head_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    (pod,) = sandbox.pods(1, "head")
    watch = Stopwatch()
    sandbox.cluster.delete(PODS, pod)
    follows(sandbox, "loss of the head", watch)
    disrupted(sandbox, "HeadDeleted")


@sandboxed
def a_deleted_ray_job_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    watch = Stopwatch()
    sandbox.cluster.delete(RAY_JOBS, sandbox.wait_for_ray_job(1))
    follows(sandbox, "deletion of the RayJob", watch)
    disrupted(sandbox, "RayJobDeleted")


@sandboxed
def a_failure_after_a_disruption_costs_no_attempt(sandbox: JobSandbox) -> None:
    begin(sandbox)
    (pod,) = sandbox.pods(1, "gpu")
    sandbox.cluster.evict(pod)
    sandbox.wait_for_status(lambda status: "disruption" in status["attempts"][0])
    sandbox.end(1, "FAILED", "NCCL lost a rank")
    sandbox.wait_for_ray_job(2, NEXT_SECONDS)
    disrupted(sandbox, "EvictionByEvictionAPI")


@sandboxed
def a_queue_admits_and_evicts(sandbox: JobSandbox) -> None:
    sandbox.apply(changes={"spec.kueue": {"queueName": "team"}})
    sandbox.wait_for_phase("Queued")
    assert sandbox.made(PODS) == []
    selector = {"kueue.example/flavor": "on-demand"}
    sandbox.cluster.label(sandbox.nodes[0], selector)
    admit(sandbox.cluster, sandbox.namespace, f"{sandbox.name}-1", selector)
    sandbox.wait_for_attempt(1)
    assert all(pod["spec"]["nodeSelector"].items() >= selector.items() for pod in sandbox.pods(1))
    # The queue's changes are kept.
    group = sandbox.wait_for_ray_job(1)["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert group["template"]["spec"]["nodeSelector"].items() >= selector.items()
    evict(sandbox.cluster, sandbox.namespace, f"{sandbox.name}-1")
    sandbox.wait_for_attempt(2, "Queued")
    disrupted(sandbox, "Evicted", phase="Queued")


# -- steps of scenarios ------------------------------------------------------------------------


def begin(sandbox: JobSandbox) -> None:
    """A job with a budget of no failure runs."""
    sandbox.apply(changes={"spec.backoffLimit": 0})
    sandbox.wait_for_attempt(1)


def orphans_are_deleted(sandbox: JobSandbox) -> Stopwatch:
    """Kubernetes deletes the pods whose node has gone; counts from there."""
    orphans = {pod["metadata"]["uid"] for pod in sandbox.pods(1)}
    wait_for(
        lambda: not orphans & {pod["metadata"]["uid"] for pod in sandbox.pods(1)},
        POD_GC_SECONDS,
        why=lambda: [pod["metadata"] for pod in sandbox.pods(1)],
    )
    return Stopwatch()


def follows(sandbox: JobSandbox, what: str, watch: Stopwatch) -> None:
    """The second attempt's RayJob is there in time."""
    sandbox.wait_for_ray_job(2, NEXT_SECONDS + 5)
    check(f"{what} to the next RayJob, s", watch(), NEXT_SECONDS)


def disrupted(sandbox: JobSandbox, reason: str, phase: str = "Running") -> None:
    """The first attempt was disrupted, for that reason, and the second one goes on."""
    status = sandbox.wait_for_attempt(2, phase)
    assert (status["attempts"][0]["outcome"], status["attempts"][0]["reason"]) == ("Disrupted", reason)
    assert (status.get("failures", 0), status["disruptions"]) == (0, 1)
    others = {pod["metadata"]["labels"]["taper.dev/attempt"] for pod in sandbox.made(PODS)}
    assert others <= {"2"}


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
