"""The base of every block of a Taper resource.

Names are camelCase in YAML and snake_case in Python. Unknown fields are errors, values
never change after validation, and a value of the wrong type is never converted: an API
server would not convert it either.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Block(BaseModel):
    """A mapping in a resource, with the fields it may have and no others."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
    )
