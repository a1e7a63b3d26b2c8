"""The base of every block of a Taper resource.

Names are camelCase in YAML and snake_case in Python. Unknown fields are errors, values
never change after validation, and a value of the wrong type is never converted: an API
server would not convert it either. A field that is null counts as left out, as it does there.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator
from pydantic.alias_generators import to_camel


def keyed_by(name: str) -> dict[str, JsonValue]:
    """For the schema of a list: an API server takes each `name` once, and merges items by it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]}


class Block(BaseModel):
    """A mapping in a resource, with the fields it may have and no others.

    The docstring of a block describes each field that holds one and has no description of its own.
    """

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

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, content: Any) -> Any:
        if not isinstance(content, dict) or None not in content.values():
            return content
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values())}
        return {name: value for name, value in content.items() if value is not None or name not in known}
