"""A taint that pods tolerate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import LabelKey, LabelValue


class Toleration(Block):
    """A taint that pods tolerate. It must have a key: a job cannot tolerate every taint."""

    key: LabelKey = Field(description="Key of the taint.")
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="`Exists` tolerates any value; `Equal` the one of `value`."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, for `Equal`.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Default: any."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="How long a pod stays on a node that gets the taint, for `NoExecute`. Default: for ever.",
    )
