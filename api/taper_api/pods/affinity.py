"""Where pods may run, as in Kubernetes, but within the job's own namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import LabelKey, LabelValue, NodeLabels

Weight = Annotated[int, Field(ge=1, le=100)]
Values = Annotated[tuple[LabelValue, ...], Field(strict=False, max_length=16)]


class NodeExpression(Block):
    """A requirement on a label of a node."""

    key: LabelKey = Field(description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label relates to `values`."
    )
    values: Values = Field(default=(), description="Values, for `In` and `NotIn` only.")


class NodeTerm(Block):
    """Requirements that a node must all meet."""

    match_expressions: Annotated[
        tuple[NodeExpression, ...], Field(strict=False, min_length=1, max_length=8)
    ] = Field(description="The requirements.")


class NodeSelection(Block):
    """Terms of which a node must meet one."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(strict=False, min_length=1, max_length=4)] = (
        Field(description="The terms.")
    )


class PreferredNodes(Block):
    """A preference for nodes."""

    weight: Weight = Field(description="Weight of the preference among the others.")
    preference: NodeTerm = Field(description="The nodes that are preferred.")


class NodeAffinity(Block):
    """Which nodes pods run on."""

    required_during_scheduling_ignored_during_execution: NodeSelection | None = Field(
        default=None, description="Requirements on a node."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(strict=False, max_length=4)
    ] = Field(default=(), description="Preferred nodes.")


class LabelSelector(Block):
    """Pods, by their labels."""

    match_labels: NodeLabels = Field(default={}, description="Labels that the pods have.")


class PodTerm(Block):
    """Pods of the job's own namespace, and how near to them."""

    label_selector: LabelSelector = Field(description="The pods, by their labels.")
    topology_key: LabelKey = Field(
        description="Label of a node; nodes with the same value count as the same place."
    )


class PreferredPods(Block):
    """A preference to be with pods, or apart from them."""

    weight: Weight = Field(description="Weight of the preference among the others.")
    pod_affinity_term: PodTerm = Field(description="The pods.")


class PodAffinity(Block):
    """Which pods to be with, or apart from."""

    required_during_scheduling_ignored_during_execution: Annotated[
        tuple[PodTerm, ...], Field(strict=False, max_length=4)
    ] = Field(default=(), description="Required places.")
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredPods, ...], Field(strict=False, max_length=4)
    ] = Field(default=(), description="Preferred places.")


class Affinity(Block):
    """Where pods may run and where they preferably run."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = Field(default=None, description="Which pods to be with.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Which pods to be apart from.")
