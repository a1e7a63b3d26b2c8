"""The Kueue queue that a job waits in."""

from __future__ import annotations

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsLabel


class Kueue(Block):
    """The queue that a job waits in."""

    queue_name: DnsLabel = Field(description="A LocalQueue of the job's namespace.")
    priority_class: DnsLabel | None = Field(
        default=None, description="A WorkloadPriorityClass. Default: by the pods' priority class."
    )
