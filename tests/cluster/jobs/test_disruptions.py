"""What the cluster does to jobs: none of it is the job's failure, and the next attempt begins soon."""

from __future__ import annotations

from concurrent.futures import Future

from taper_operator.manifests.kinds import PODS, RAY_JOBS

from ..control_plane.cluster import wait_for
from ..fakes.fake_kueue import admit, evict
from ..scenarios.figures import check
from ..scenarios.job_sandbox import Scene, Stopwatch, scene
from ..scenarios.scenarios import RESULT_SECONDS, each_of

# From what the cluster does to an attempt until the RayJob of the next one is there.
NEXT_SECONDS = 60.0
# Kubernetes looks for pods without a node every 20 s and deletes them 40 s after the first time that it finds
# them; where a request of its fails it waits for as long again. The operator can do nothing about that.
POD_GC_SECONDS = 180.0


@scene
def a_tainted_node_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    (pod,) = scene.pods(1, "gpu")
    watch = Stopwatch()
    scene.cluster.taint(pod["spec"]["nodeName"], "NoExecute")
    follows(scene, "NoExecute taint", watch)
    scene.new_node()
    disrupted(scene, "DeletionByTaintManager")


@scene
def an_eviction_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    (pod,) = scene.pods(1, "gpu")
    watch = Stopwatch()
    scene.cluster.evict(pod)
    follows(scene, "eviction", watch)
    disrupted(scene, "EvictionByEvictionAPI")


@scene
def a_preemption_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    watch = Stopwatch()
    scene.preempt()
    follows(scene, "preemption", watch)
    scene.new_node()
    disrupted(scene, "PreemptionByScheduler")


@scene
def a_deleted_node_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    (pod,) = scene.pods(1, "gpu")
    scene.delete_node(pod["spec"]["nodeName"])
    watch = orphans_are_deleted(scene)
    follows(scene, "deletion of a node's pods", watch)
    scene.new_node()
    disrupted(scene, "DeletionByPodGC")


@scene
def a_deleted_head_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    (pod,) = scene.pods(1, "head")
    watch = Stopwatch()
    scene.cluster.delete(PODS, pod)
    follows(scene, "loss of the head", watch)
    disrupted(scene, "HeadDeleted")


@scene
def a_deleted_ray_job_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    watch = Stopwatch()
    scene.cluster.delete(RAY_JOBS, scene.wait_for_ray_job(1))
    follows(scene, "deletion of the RayJob", watch)
    disrupted(scene, "RayJobDeleted")


@scene
def a_failure_after_a_disruption_costs_no_attempt(scene: Scene) -> None:
    begin(scene)
    (pod,) = scene.pods(1, "gpu")
    scene.cluster.evict(pod)
    scene.wait_for_status(lambda status: "disruption" in status["attempts"][0])
    scene.end(1, "FAILED", "NCCL lost a rank")
    scene.wait_for_ray_job(2, NEXT_SECONDS)
    disrupted(scene, "EvictionByEvictionAPI")


@scene
def a_queue_admits_and_evicts(scene: Scene) -> None:
    scene.apply(changes={"spec.kueue": {"queueName": "team"}})
    scene.wait_for_phase("Queued")
    assert scene.made(PODS) == []
    selector = {"kueue.example/flavor": "on-demand"}
    scene.cluster.label(scene.nodes[0], selector)
    admit(scene.cluster, scene.namespace, f"{scene.name}-1", selector)
    scene.wait_for_attempt(1)
    assert all(pod["spec"]["nodeSelector"].items() >= selector.items() for pod in scene.pods(1))
    # What the queue has written is left as it is.
    group = scene.wait_for_ray_job(1)["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert group["template"]["spec"]["nodeSelector"].items() >= selector.items()
    evict(scene.cluster, scene.namespace, f"{scene.name}-1")
    scene.wait_for_attempt(2, "Queued")
    disrupted(scene, "Evicted", phase="Queued")


# -- steps of scenarios ------------------------------------------------------------------------


def begin(scene: Scene) -> None:
    """A job with a budget of no failure runs."""
    scene.apply(changes={"spec.backoffLimit": 0})
    scene.wait_for_attempt(1)


def orphans_are_deleted(scene: Scene) -> Stopwatch:
    """Kubernetes deletes the pods whose node has gone; counts from there."""
    orphans = {pod["metadata"]["uid"] for pod in scene.pods(1)}
    wait_for(
        lambda: not orphans & {pod["metadata"]["uid"] for pod in scene.pods(1)},
        POD_GC_SECONDS,
        why=lambda: [pod["metadata"] for pod in scene.pods(1)],
    )
    return Stopwatch()


def follows(scene: Scene, what: str, watch: Stopwatch) -> None:
    """The second attempt's RayJob is there in time."""
    scene.wait_for_ray_job(2, NEXT_SECONDS + 5)
    check(f"{what} to the next RayJob, s", watch(), NEXT_SECONDS)


def disrupted(scene: Scene, reason: str, phase: str = "Running") -> None:
    """The first attempt was disrupted, for that reason, and the second one goes on."""
    status = scene.wait_for_attempt(2, phase)
    assert (status["attempts"][0]["outcome"], status["attempts"][0]["reason"]) == ("Disrupted", reason)
    assert (status.get("failures", 0), status["disruptions"]) == (0, 1)
    others = {pod["metadata"]["labels"]["taper.dev/attempt"] for pod in scene.made(PODS)}
    assert others <= {"2"}


@each_of(__name__)
def test_scenario(played: dict[str, Future[None]], scenario_name: str) -> None:
    played[scenario_name].result(RESULT_SECONDS)
