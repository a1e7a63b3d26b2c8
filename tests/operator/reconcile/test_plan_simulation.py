"""Plans through whatever may happen, in a modelled cluster: what must never be, and how it all ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import PODS
from taper_operator.reconcile.attempt_history import active_attempt

from ...examples import examples
from ..job_objects import resource
from ..reason_tables import ATTEMPTS, CONDITIONS
from ..reason_tables import EVENTS as EVENT_ROWS
from .cluster_model import ClusterModel

EVENTS: dict[str, Callable[[ClusterModel], object]] = {
    "reconcile": lambda c: c.reconcile(),
    "die before the actions": lambda c: c.reconcile(most_actions=0),
    "die among the actions": lambda c: c.reconcile(most_actions=2),
    "step": lambda c: c.kuberay_step(),
    "steps": lambda c: [c.kuberay_step() for _ in range(5)],
    "a second": lambda c: c.pass_time(1),
    "a minute": lambda c: c.pass_time(60),
    "an hour": lambda c: c.pass_time(3600),
    "fail": lambda c: c.end_job("FAILED", "AppFailed"),
    "stop": lambda c: c.end_job("STOPPED"),
    "disrupt": lambda c: c.disrupt(),
    "disrupt and fail": lambda c: (c.disrupt(), c.end_job("FAILED", "AppFailed")),
    "lose the head": lambda c: c.lose_head(),
    "admit": lambda c: c.admit(),
    "evict": lambda c: c.evict(),
    "delete the RayJob": lambda c: c.delete_ray_job(),
    "suspend": lambda c: c.ask(suspend=True),
    "resume": lambda c: c.ask(suspend=False),
    "lose KubeRay": lambda c: setattr(c, "kuberay", "missing"),
    "find KubeRay": lambda c: setattr(c, "kuberay", "served"),
    "checkpoint": lambda c: c.report_checkpoint(int(c.now.timestamp()) % 100_000),
}
CONDITION_REASONS = set(CONDITIONS)
ATTEMPT_REASONS = set(ATTEMPTS)
EVENT_REASONS = {reason for reason, _ in EVENT_ROWS}
STORIES = st.lists(st.sampled_from(sorted(EVENTS)), max_size=60)
JOBS = st.fixed_dictionaries(
    {"spec.backoffLimit": st.integers(0, 3)},
    optional={
        "spec.kueue": st.just({"queueName": "q"}),
        "spec.activeDeadlineSeconds": st.just(7200),
        "spec.submissionMode": st.just("K8sJobMode"),
    },
).map(lambda changes: resource(changes))


def happens(cluster: ClusterModel, event: str) -> None:
    EVENTS[event](cluster)
    if cluster.job is not None:
        check(cluster)


def check(cluster: ClusterModel) -> None:
    """What holds at every moment."""
    status = cluster.status
    outcomes = Counter(attempt.outcome for attempt in status.attempts)
    numbers = [attempt.number for attempt in status.attempts]
    assert numbers == list(range(status.attempt - len(numbers) + 1, status.attempt + 1))
    assert outcomes["Active"] <= 1
    assert len({pod["metadata"]["labels"]["taper.dev/attempt"] for pod in cluster._all(PODS)}) <= 1
    if status.attempt <= 10:
        assert (outcomes["Failed"], outcomes["Disrupted"]) == (status.failures, status.disruptions)
    check_reasons(cluster)
    for attempt in status.attempts:
        if attempt.outcome == "Failed" and attempt.reason != "DisruptedTooOften":
            assert attempt.number in cluster.failed
        if attempt.outcome == "Disrupted":
            assert attempt.number in cluster.disrupted


def check_reasons(cluster: ClusterModel) -> None:
    """What is said is in the reference."""
    status = cluster.status
    conditions = {(each.type, each.status, each.reason) for each in status.conditions}
    assert {each for each in conditions if each[:2] != ("Degraded", "True")} <= CONDITION_REASONS
    ended = {(each.outcome, each.reason) for each in status.attempts if each.outcome != "Active"}
    assert {each for each in ended if each[0] not in ("Failed", "Disrupted")} <= ATTEMPT_REASONS
    assert {reason for reason, _ in cluster.events} <= EVENT_REASONS


@examples(150)
@given(JOBS, STORIES)
@example(resource(), ["reconcile", "steps", "disrupt", "reconcile", "an hour", "reconcile"])
def test_every_simulated_job_ends(job: KubeObject, story: list[str]) -> None:
    cluster = ClusterModel(job)
    for event in story:
        happens(cluster, event)
    calm(cluster)
    assert cluster.status.phase in ("Complete", "Failed")
    assert cluster.status.completion_time is not None
    assert active_attempt(cluster.status) is None
    assert not cluster._all(PODS), "no GPU is kept by a job that has ended"
    assert max(Counter(cluster.events).values(), default=0) == 1, "each transition is recorded once"


def calm(cluster: ClusterModel) -> None:
    """Run without further faults until nothing changes."""
    cluster.kuberay = "served"
    cluster.ask(suspend=False)
    for _ in range(40):
        for event in ("reconcile", "admit", "steps", "reconcile", "a minute"):
            happens(cluster, event)
        if cluster.status.completion_time is not None and not cluster._all(PODS):
            return
        cluster.end_job("SUCCEEDED")


@examples(100)
@given(JOBS, STORIES)
def test_an_executed_plan_leaves_nothing_to_do(job: KubeObject, story: list[str]) -> None:
    cluster = ClusterModel(job)
    for event in story:
        happens(cluster, event)
        # What deletes is done once the deletion has begun, what makes once the object is there.
        for _ in range(3):
            cluster.reconcile()
        again = cluster.reconcile()
        assert again.actions == ()
        assert again.status is None
        assert again.events == ()


def until_running(cluster: ClusterModel) -> None:
    for event in ("reconcile", "admit", "steps", "reconcile"):
        happens(cluster, event)


def test_the_fifth_disruption_in_a_row_is_a_failure() -> None:
    cluster = ClusterModel(resource({"spec.backoffLimit": 0}))
    for number in range(1, 6):
        until_running(cluster)
        assert cluster.status.phase == "Running"
        for event in ("disrupt", "reconcile", "an hour", "reconcile", "steps", "an hour"):
            happens(cluster, event)
        assert cluster.status.attempt == number
    assert (cluster.status.disruptions, cluster.status.failures) == (4, 1)
    assert cluster.status.attempts[-1].reason == "DisruptedTooOften"
    assert cluster.status.phase == "Failed"


def test_a_new_checkpoint_resets_the_disruptions_in_a_row() -> None:
    cluster = ClusterModel(resource({"spec.backoffLimit": 0}))
    for number in range(1, 9):
        until_running(cluster)
        cluster.report_checkpoint(number)
        for event in ("reconcile", "disrupt", "reconcile", "an hour", "reconcile", "steps", "an hour"):
            happens(cluster, event)
    assert (cluster.status.disruptions, cluster.status.failures) == (8, 0)
    assert cluster.status.attempts[-1].first_step == 7


def test_a_repeated_checkpoint_does_not_reset_the_disruptions_in_a_row() -> None:
    cluster = ClusterModel(resource({"spec.backoffLimit": 0}))
    for _ in range(1, 7):
        until_running(cluster)
        cluster.report_checkpoint(7)
        for event in ("reconcile", "disrupt", "reconcile", "an hour", "reconcile", "steps", "an hour"):
            happens(cluster, event)
    # The first made it, and five more came no further.
    assert cluster.status.failures == 1
