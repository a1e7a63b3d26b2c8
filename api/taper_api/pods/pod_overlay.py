"""What a job may change about its pods beyond the fields of a pool: a list of what is safe, nothing else.

There is no way here to a host path, a privileged container, root, another service account or a
secret. What is missing is missing on purpose: whoever may create a job may not thereby do more in
the operator's name than the operator's settings allow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import PlainLabels, without_nulls

Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
# Annotations can mean anything to who reads them (devices, profiles, injected containers): these are known.
AnnotationKey = Literal["cluster-autoscaler.kubernetes.io/safe-to-evict", "karpenter.sh/do-not-disrupt"]


class PodOverlay(Block):
    """Further properties of a pool's pods."""

    labels: PlainLabels = Field(default={}, description="Labels, their keys without a prefix.")
    annotations: Annotated[
        dict[AnnotationKey, Literal["true", "false"]], Field(max_length=2), BeforeValidator(without_nulls)
    ] = Field(
        default={},
        description="Annotations that tell an autoscaler to leave the pods alone.",
    )
    run_as_user: Id | None = Field(default=None, description="User of the processes. Default: the image's.")
    run_as_group: Id | None = Field(default=None, description="Their group. Default: the image's.")
    fs_group: Id | None = Field(default=None, description="Group that owns the volumes' files.")
    supplemental_groups: Annotated[tuple[Id, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="Further groups of the processes."
    )
    termination_grace_period_seconds: int | None = Field(
        default=None,
        ge=10,
        le=3600,
        description="Time that the pods have to end, and to save where they can. Default: the operator's.",
    )
