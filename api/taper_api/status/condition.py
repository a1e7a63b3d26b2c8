"""A condition of a resource, as in every Kubernetes resource."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from taper_api.base.block import Block

# RFC 3339, as Kubernetes writes times; the server knows the format by its name.
Time = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$"),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 64}),
]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Reason = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
Message = Annotated[str, Field(max_length=4096)]


class Condition(Block):
    """Whether something is true of the resource, since when, and why."""

    type: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")] = Field(
        description="Name of the condition."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is true.")
    observed_generation: Count | None = Field(
        default=None, description="Generation of the resource that the condition describes."
    )
    last_transition_time: Time = Field(description="When `status` last changed.")
    reason: Reason = Field(description="Why, in one word.")
    message: Message = Field(default="", description="Why, in words.")
