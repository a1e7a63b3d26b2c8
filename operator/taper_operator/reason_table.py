"""What the operator says of a job, each with what it means: reasons of conditions and attempts, and events.

`docs/operator-reference.md` is made from it.

Invariants (asserted by `tests/operator/test_reason_table.py` and `test_plan_simulation.py`):
- whatever happens, nothing is said that is not here;
- of the conditions' reasons there is none here that is never said.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

# In place of a reason: the words of others, such as Kubernetes' of a disruption.
OF_OTHERS: Final = ""


class ConditionReason(NamedTuple):
    """A reason of a condition."""

    condition: str
    status: Literal["True", "False"]
    reason: str
    meaning: str


class AttemptReason(NamedTuple):
    """A reason for which an attempt has ended."""

    outcome: str
    reason: str
    meaning: str


class EventReason(NamedTuple):
    """A reason of an event."""

    reason: str
    kind: Literal["Normal", "Warning"]
    meaning: str


CONDITIONS: Final = (
    ConditionReason("Validated", "True", "Valid", "The job is as it should be."),
    ConditionReason(
        "Validated",
        "False",
        "InvalidSpec",
        "A field is wrong in a way that only the operator can tell. The message names it and what would be "
        "right. An attempt that runs goes on.",
    ),
    ConditionReason(
        "Validated",
        "False",
        "NotAllowed",
        "The operator's settings do not allow what a field asks for. The message names both: change the "
        "field, or have the setting changed.",
    ),
    ConditionReason("Admitted", "True", "NotQueued", "The attempt waits in no queue."),
    ConditionReason("Admitted", "True", "Admitted", "Kueue has admitted the attempt."),
    ConditionReason(
        "Admitted", "False", "Queued", "The attempt waits until Kueue admits it: see its Workload."
    ),
    ConditionReason(
        "Admitted",
        "False",
        "NotCreated",
        "The attempt's RayJob is yet to be made. If that lasts, see `ClusterReady` and the operator's log.",
    ),
    ConditionReason("Admitted", "False", "NoAttempt", "No attempt goes on."),
    ConditionReason(
        "ClusterReady", "True", "AllPodsReady", "The head and all pods of the GPU pool are ready."
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "PodsNotReady",
        "Pods wait for a node, an image or a volume: `kubectl describe` them. After "
        "`spec.nodePools.startupTimeoutSeconds` the attempt has failed.",
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "WaitingForPods",
        "What is left of an earlier attempt, or of an earlier job of that name, must be gone first.",
    ),
    ConditionReason("ClusterReady", "False", "NoCluster", "There is no RayJob."),
    ConditionReason(
        "ClusterReady", "False", "KubeRayMissing", "The cluster has no RayJob: install KubeRay 1.7 or newer."
    ),
    ConditionReason(
        "ClusterReady",
        "False",
        "KubeRayTooOld",
        "KubeRay's definition of RayJob lacks fields that are needed: install KubeRay 1.7 or newer, with its "
        "definitions.",
    ),
    ConditionReason("Running", "True", "JobRunning", "`taper run` runs."),
    ConditionReason("Running", "False", "NotRunning", "It does not run, not yet or not any more."),
    ConditionReason("Degraded", "False", "AsDesired", "The job runs, with all of its pods."),
    ConditionReason("Degraded", "False", "NotRunning", "It does not run."),
    ConditionReason(
        "Degraded", "True", "PodsMissing", "The job runs, and pods of the GPU pool are not ready."
    ),
    ConditionReason("Degraded", "True", "HeadNotReady", "The job runs, and its head is not ready."),
    ConditionReason(
        "Degraded",
        "True",
        OF_OTHERS,
        "A pod was taken away, for this reason (see `Disrupted` below); the attempt is ended 10 s later.",
    ),
    ConditionReason("Suspended", "False", "NotSuspended", "`spec.suspend` is false, or the job has ended."),
    ConditionReason("Suspended", "False", "Suspending", "Its pods are ending."),
    ConditionReason("Suspended", "True", "Suspended", "`spec.suspend` is true, and no pod is left."),
    ConditionReason("Complete", "False", "NotFinished", "It has not succeeded."),
    ConditionReason("Complete", "True", "JobSucceeded", "All steps are done."),
    ConditionReason("Failed", "False", "NotFinished", "It has not failed."),
    ConditionReason(
        "Failed",
        "True",
        "BackoffLimitExceeded",
        "More attempts have failed than `spec.backoffLimit` allows. The message has the last one's cause.",
    ),
    ConditionReason(
        "Failed", "True", "DeadlineExceeded", "It was active for longer than `spec.activeDeadlineSeconds`."
    ),
    ConditionReason(
        "Failed",
        "True",
        "InvalidJob",
        "`taper run` says that the job can never run as it is written, such as for a missing file; another "
        "attempt would end the same way. The message names the field.",
    ),
    ConditionReason(
        "Failed", "True", "ValidationFailed", "KubeRay refuses the RayJob; the message says why."
    ),
    ConditionReason("Failed", "True", "TooManyAttempts", "There were 9,999 attempts."),
)

ATTEMPTS: Final = (
    AttemptReason("Succeeded", "JobSucceeded", "All steps are done."),
    AttemptReason("Failed", "JobStopped", "Someone stopped Ray's job by hand."),
    AttemptReason("Failed", "JobFailed", "Ray's job has failed, and nobody said why."),
    AttemptReason(
        "Failed",
        "DisruptedTooOften",
        "The fifth disruption in a row without a new checkpoint counts as a failure.",
    ),
    AttemptReason(
        "Failed",
        OF_OTHERS,
        "The word of `taper run` for what went wrong, or of KubeRay where the job had none.",
    ),
    AttemptReason("Disrupted", "HeadDeleted", "Its head was deleted."),
    AttemptReason("Disrupted", "HeadLost", "Its head did not answer any more."),
    AttemptReason("Disrupted", "RayJobDeleted", "Someone deleted its RayJob."),
    AttemptReason("Disrupted", "Evicted", "Kueue has evicted it, or a kubelet one of its pods."),
    AttemptReason(
        "Disrupted",
        OF_OTHERS,
        "Kubernetes' word for why a pod went, such as `PreemptionByScheduler` or `DeletionByTaintManager`.",
    ),
    AttemptReason("Suspended", "Suspended", "`spec.suspend` was set."),
    AttemptReason("Stopped", "DeadlineExceeded", "The job was active for as long as it may be."),
)

EVENTS: Final = (
    EventReason("AttemptStarted", "Normal", "An attempt has begun."),
    EventReason("AttemptSucceeded", "Normal", "It has done all steps."),
    EventReason("AttemptFailed", "Warning", "It has failed."),
    EventReason("AttemptDisrupted", "Warning", "The cluster has ended it."),
    EventReason("AttemptSuspended", "Normal", "It was ended by `spec.suspend`."),
    EventReason("AttemptStopped", "Warning", "It was ended by the deadline."),
    EventReason("DisruptionSeen", "Warning", "The cluster takes something of it away."),
    EventReason("Running", "Normal", "The condition holds now."),
    EventReason("Degraded", "Warning", "The condition holds now."),
    EventReason("Suspended", "Normal", "The condition holds now."),
    EventReason("Complete", "Normal", "The condition holds now."),
    EventReason("Failed", "Warning", "The condition holds now."),
    EventReason("InvalidSpec", "Warning", "`Validated` has become false."),
    EventReason("NotAllowed", "Warning", "`Validated` has become false."),
    EventReason(
        "Unreadable", "Warning", "The operator cannot read the object, of any kind, and passes it over."
    ),
)
