"""An environment variable of the job's containers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsSubdomain


class SecretKey(Block):
    """A key of a secret of the job's namespace. The operator's settings must allow the secret."""

    name: DnsSubdomain = Field(description="Name of the secret.")
    key: Annotated[str, Field(max_length=253, pattern=r"^[-._A-Za-z0-9]+$")] = Field(description="Key in it.")


class EnvironmentVariable(Block):
    """An environment variable of every container of the job: a value, or a key of a secret."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable; it must not begin with RAY_ or TAPER_."
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="Value of the variable."
    )
    secret: SecretKey | None = Field(
        default=None, description="The secret that holds its value; the operator's settings must allow it."
    )
