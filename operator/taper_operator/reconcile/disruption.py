"""Which ends of an attempt the cluster caused, by the state of its pods and its RayJob.

A disruption is a pod's condition DisruptionTarget, a reason with which kubelets and the node controller end
pods, a deleted head, or an eviction by Kueue. It is recorded in the status when it is first seen, since the
pods that show it are soon gone.

Invariants (asserted by `tests/operator/reconcile/test_disruption.py`):
- a head that ran out of memory, and pods that terminate because their job has ended, are no disruption;
- the first disruption seen is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from taper_api.status.attempt import Disruption
from taper_operator.observation.pod_state import PodState
from taper_operator.observation.ray_job_state import HEAD_UNREACHABLE, RayJobState

_MAX_MESSAGE_CHARACTERS = 1_000
_MAX_REASON_CHARACTERS = 128


def disruption_seen(ray_job: RayJobState | None, pods: Sequence[PodState], now: str) -> Disruption | None:
    """The disruption of an attempt that can be seen now; None if there is none."""
    for pod in pods:
        if pod.cluster_reason:
            return _disruption(pod.cluster_reason, f"{pod.name}: {pod.cluster_message}", now)
    if ray_job is None or ray_job.has_succeeded:
        return None
    heads = [pod for pod in pods if pod.is_head]
    if any(pod.is_out_of_memory for pod in heads):
        return None
    if ray_job.reason == HEAD_UNREACHABLE:
        return _disruption("HeadLost", "the head no longer answered", now)
    # Pods terminate anyway once their job has ended, is suspended or is deleted.
    is_terminating = ray_job.has_failed or ray_job.is_suspended or ray_job.is_terminating
    if not is_terminating and any(pod.is_terminating for pod in heads):
        return _disruption("HeadDeleted", f"{heads[0].name} was deleted", now)
    return None


def _disruption(reason: str, message: str, now: str) -> Disruption:
    return Disruption(
        time=now, reason=reason_of(reason, "Disrupted"), message=message[:_MAX_MESSAGE_CHARACTERS]
    )


def reason_of(text: str, otherwise: str) -> str:
    """Any text as a valid reason of a condition."""
    cleaned = re.sub(r"[^A-Za-z0-9_]", "", text)[:_MAX_REASON_CHARACTERS]
    return cleaned if re.match(r"[A-Za-z]", cleaned) else otherwise
