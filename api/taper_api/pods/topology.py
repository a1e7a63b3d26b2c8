"""How close to each other the pods of a pool run."""

from __future__ import annotations

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import LabelKey


class Topology(Block):
    """How close to each other the pods of a pool run: one of the two, a level of Kueue's topology."""

    required: LabelKey | None = Field(
        default=None, description="Node label of the level that all pods must share, such as a rack."
    )
    preferred: LabelKey | None = Field(
        default=None, description="Node label of the level that all pods should share if possible."
    )
