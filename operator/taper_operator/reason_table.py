"""What the operator reports about a job, with its meaning: reasons of conditions and attempts, and events.

`docs/operator-reference.md` is generated from it.

Invariants (asserted by `tests/operator/test_reason_table.py` and `test_plan_simulation.py`):
- the operator reports nothing that is not in these tables;
- every reason of a condition in the tables can occur.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

# In place of a reason: one that comes from elsewhere, such as Kubernetes' reason of a disruption.
FROM_ELSEWHERE: Final = ""


class ConditionReason(NamedTuple):
    """A reason of a condition."""

    condition: str
    status: Literal["True", "False"]
    reason: str
    meaning: str


class AttemptReason(NamedTuple):
    """A reason for the end of an attempt."""

    outcome: str
    reason: str
    meaning: str


class EventReason(NamedTuple):
    """A reason of an event."""

    reason: str
    kind: Literal["Normal", "Warning"]
    meaning: str


CONDITIONS: Final = (
    ConditionReason("Validated", "True", "Valid", "The job is valid."),
    ConditionReason(
        "Validated",
        "False",
        "InvalidSpec",
        "A field is wrong in a way that only the operator can detect. The message names the field and what "
        "would be right. A running attempt continues.",
    ),
    ConditionReason(
        "Validated",
        "False",
        "NotAllowed",
        "The operator's settings do not allow the value of a field. The message names both: change the "
        "field, or ask for the setting to be changed.",
    ),
    ConditionReason("Admitted", "True", "NotQueued", "The attempt needs no queue."),
    ConditionReason("Admitted", "True", "Admitted", "Kueue has admitted the attempt."),
    ConditionReason(
        "Admitted", "False", "Queued", "The attempt waits for Kueue to admit it: see its Workload."
    ),
    ConditionReason(
        "Admitted",
        "False",
        "NotCreated",
        "The attempt's RayJob does not exist yet. If that lasts, see `ClusterReady` and the operator's log.",
    ),
    ConditionReason("Admitted", "False", "NoAttempt", "No attempt is active."),
    ConditionReason(
        "ClusterReady", "True", "AllPodsReady", "The head and all pods of the GPU pool are ready."
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "PodsNotReady",
        "Pods wait for a node, an image or a volume: `kubectl describe` them. After "
        "`spec.nodePools.startupTimeoutSeconds` the attempt fails.",
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "WaitingForPods",
        "Pods, RayClusters or RayJobs of an earlier attempt, or of an earlier job of that name, still exist.",
    ),
    ConditionReason("ClusterReady", "False", "NoCluster", "There is no RayJob."),
    ConditionReason(
        "ClusterReady",
        "False",
        "KubeRayMissing",
        "The cluster has no RayJob kind: install KubeRay 1.7 or newer.",
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "KubeRayTooOld",
        "The CRD of RayJob lacks fields that are needed: install KubeRay 1.7 or newer, with its CRDs.",
    ),
    ConditionReason("Running", "True", "JobRunning", "`taper run` is running."),
    ConditionReason("Running", "False", "NotRunning", "It is not running, not yet or no longer."),
    ConditionReason("Degraded", "False", "AsDesired", "The job is running, with all of its pods."),
    ConditionReason("Degraded", "False", "NotRunning", "It is not running."),
    ConditionReason(
        "Degraded", "True", "PodsMissing", "The job is running, and pods of the GPU pool are not ready."
    ),
    ConditionReason("Degraded", "True", "HeadNotReady", "The job is running, and its head is not ready."),
    ConditionReason(
        "Degraded",
        "True",
        FROM_ELSEWHERE,
        "The cluster removed a pod, for this reason (see `Disrupted` below); the attempt ends 10 s later.",
    ),
    ConditionReason("Suspended", "False", "NotSuspended", "`spec.suspend` is false, or the job has ended."),
    ConditionReason("Suspended", "False", "Suspending", "Its pods are terminating."),
    ConditionReason("Suspended", "True", "Suspended", "`spec.suspend` is true, and no pod is left."),
    ConditionReason("Complete", "False", "NotFinished", "It has not succeeded."),
    ConditionReason("Complete", "True", "JobSucceeded", "All steps are done."),
    ConditionReason("Failed", "False", "NotFinished", "It has not failed."),
    ConditionReason(
        "Failed",
        "True",
        "BackoffLimitExceeded",
        "More attempts failed than `spec.backoffLimit` allows. The message has the cause of the last one.",
    ),
    ConditionReason(
        "Failed", "True", "DeadlineExceeded", "It was active for longer than `spec.activeDeadlineSeconds`."
    ),
    ConditionReason(
        "Failed",
        "True",
        "InvalidJob",
        "`taper run` found that the job can never run as written, such as for a missing file; "
        "another attempt would end the same way. The message names the field.",
    ),
    ConditionReason(
        "Failed", "True", "ValidationFailed", "KubeRay rejected the RayJob; the message says why."
    ),
    ConditionReason("Failed", "True", "TooManyAttempts", "The job has had 9,999 attempts."),
)

ATTEMPTS: Final = (
    AttemptReason("Succeeded", "JobSucceeded", "All steps are done."),
    AttemptReason("Failed", "JobStopped", "Someone stopped the Ray job."),
    AttemptReason("Failed", "JobFailed", "The Ray job failed without a reason."),
    AttemptReason(
        "Failed",
        "DisruptedTooOften",
        "The fifth disruption in a row without a new checkpoint counts as a failure.",
    ),
    AttemptReason(
        "Failed",
        FROM_ELSEWHERE,
        "The reason that `taper run` gave, or that of KubeRay if it gave none.",
    ),
    AttemptReason("Disrupted", "HeadDeleted", "Its head was deleted."),
    AttemptReason("Disrupted", "HeadLost", "Its head no longer answered."),
    AttemptReason("Disrupted", "RayJobDeleted", "Someone deleted its RayJob."),
    AttemptReason("Disrupted", "Evicted", "Kueue evicted it, or a kubelet evicted one of its pods."),
    AttemptReason(
        "Disrupted",
        FROM_ELSEWHERE,
        "Kubernetes' reason for removing a pod, such as `PreemptionByScheduler` or `DeletionByTaintManager`.",
    ),
    AttemptReason("Suspended", "Suspended", "`spec.suspend` was set."),
    AttemptReason("Stopped", "DeadlineExceeded", "The job was active for as long as it may be."),
)

EVENTS: Final = (
    EventReason("AttemptStarted", "Normal", "An attempt began."),
    EventReason("AttemptSucceeded", "Normal", "It completed all steps."),
    EventReason("AttemptFailed", "Warning", "It has failed."),
    EventReason("AttemptDisrupted", "Warning", "The cluster ended it."),
    EventReason("AttemptSuspended", "Normal", "`spec.suspend` ended it."),
    EventReason("AttemptStopped", "Warning", "The deadline ended it."),
    EventReason("DisruptionSeen", "Warning", "The cluster is removing a part of it."),
    EventReason("Running", "Normal", "The condition became true."),
    EventReason("Degraded", "Warning", "The condition became true."),
    EventReason("Suspended", "Normal", "The condition became true."),
    EventReason("Complete", "Normal", "The condition became true."),
    EventReason("Failed", "Warning", "The condition became true."),
    EventReason("InvalidSpec", "Warning", "`Validated` became false."),
    EventReason("NotAllowed", "Warning", "`Validated` became false."),
    EventReason("Unreadable", "Warning", "The operator cannot read the object, of any kind, and skips it."),
)
