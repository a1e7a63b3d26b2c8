"""Further properties of a job's pods: only those that are safe to let the author of a job set.

None leads to a host path, a privileged container, root, another service account or a secret. That
is on purpose: the right to create a job must not give more rights than the operator's settings allow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import PlainLabels, without_nulls

Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
# Any annotation may change what a cluster does (devices, profiles, injected containers): these two are safe.
AnnotationKey = Literal["cluster-autoscaler.kubernetes.io/safe-to-evict", "karpenter.sh/do-not-disrupt"]


class PodOverlay(Block):
    """Further properties of a pool's pods."""

    labels: PlainLabels = Field(default={}, description="Labels, their keys without a prefix.")
    annotations: Annotated[
        dict[AnnotationKey, Literal["true", "false"]], Field(max_length=2), BeforeValidator(without_nulls)
    ] = Field(
        default={},
        description="Annotations that keep autoscalers from evicting the pods.",
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
        description="Seconds that the pods have to end after SIGTERM. Default: the operator's.",
    )
