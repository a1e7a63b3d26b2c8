"""The container image of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsSubdomain


class Image(Block):
    """The image that every pod of the job runs."""

    name: Annotated[str, Field(max_length=512, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._:/@]*$")] | None = Field(
        default=None, description="Name with tag or digest. Default: the operator's."
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When a node pulls it."
    )
    pull_secrets: Annotated[tuple[DnsSubdomain, ...], Field(strict=False, max_length=4)] = Field(
        default=(), description="Secrets to pull it with; the operator's settings must allow each."
    )
