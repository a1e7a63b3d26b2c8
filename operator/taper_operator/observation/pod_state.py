"""The state of a pod, and what the cluster has done to it.

Invariant (asserted by `tests/operator/reconcile/test_disruption.py`): whatever a pod's status holds, reading
it raises nothing; a pod that ended by itself is no disruption.
"""

from __future__ import annotations

from dataclasses import dataclass

from taper_operator.kube.json_field import field_at, is_condition_true, mappings_at, text_at
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.names import HEAD_ROLE, ROLE_LABEL, attempt_number

DISRUPTION_TARGET = "DisruptionTarget"
# Values of `status.reason` with which the kubelet or the node controller ends a pod.
CLUSTER_REASONS = frozenset(
    {
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Preempted",
        "Preempting",
        "Shutdown",
        "Terminated",
        "NodeAffinity",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """attempt: number in its label, 0 without
    cluster_reason, cluster_message: why the cluster ended it, empty if it did not
    """

    name: str
    attempt: int
    is_head: bool
    is_ready: bool
    is_terminating: bool
    is_out_of_memory: bool
    cluster_reason: str
    cluster_message: str


def pod_state(pod: KubeObject) -> PodState:
    """Read a pod."""
    reason, message = _cluster_cause(pod)
    return PodState(
        name=text_at(pod, "metadata", "name"),
        attempt=attempt_number(pod),
        is_head=text_at(pod, "metadata", "labels", ROLE_LABEL) == HEAD_ROLE,
        is_ready=is_condition_true(pod, "Ready", "status", "conditions") is True,
        is_terminating=field_at(pod, "metadata", "deletionTimestamp") is not None,
        is_out_of_memory=_is_out_of_memory(pod),
        cluster_reason=reason,
        cluster_message=message,
    )


def _cluster_cause(pod: KubeObject) -> tuple[str, str]:
    for condition in mappings_at(pod, "status", "conditions"):
        if condition.get("type") == DISRUPTION_TARGET and condition.get("status") == "True":
            return text_at(condition, "reason") or DISRUPTION_TARGET, text_at(condition, "message")
    reason = text_at(pod, "status", "reason")
    return (reason, text_at(pod, "status", "message")) if reason in CLUSTER_REASONS else ("", "")


def _is_out_of_memory(pod: KubeObject) -> bool:
    return any(
        text_at(container, state, "terminated", "reason") == "OOMKilled"
        for container in mappings_at(pod, "status", "containerStatuses")
        for state in ("state", "lastState")
    )
