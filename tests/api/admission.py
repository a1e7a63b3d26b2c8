"""What an API server does with an object by its schema: it drops nulls, sets defaults and checks the rest.

Without the rules in CEL, which only a real server evaluates.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def admitted(content: Any, schema: Schema) -> Any:
    """The object as the server would keep it, if it is valid."""
    content = copy.deepcopy(content)
    _prune_nulls(content, schema)
    _fill_defaults(content, schema)
    return content


def errors(content: Any, schema: Schema) -> list[str]:
    """Why the server refuses an object, each as `path: reason`; empty if it accepts it."""
    return list(_errors(admitted(content, schema), schema, ""))


def field_of(schema: Schema, name: str) -> Schema | None:
    """The schema of a field of an object, or of a value of a map."""
    known: dict[str, Schema] = schema.get("properties", {})
    return known.get(name, schema.get("additionalProperties"))


def _prune_nulls(content: Any, schema: Schema) -> None:
    if isinstance(content, dict):
        for name in list(content):
            field = field_of(schema, name)
            if field is not None and content[name] is None and "default" not in field:
                del content[name]
            elif field is not None:
                _prune_nulls(content[name], field)
    if isinstance(content, list) and "items" in schema:
        for item in content:
            _prune_nulls(item, schema["items"])


def _fill_defaults(content: Any, schema: Schema) -> None:
    if isinstance(content, dict):
        for name, field in schema.get("properties", {}).items():
            if "default" in field and content.get(name) is None:
                content[name] = copy.deepcopy(field["default"])
        for name in content:
            field = field_of(schema, name)
            if field is not None:
                _fill_defaults(content[name], field)
    if isinstance(content, list) and "items" in schema:
        for item in content:
            _fill_defaults(item, schema["items"])


def _errors(content: Any, schema: Schema, path: str) -> Iterator[str]:
    types = _TYPES[schema["type"]] if "type" in schema else (int, str)
    if "type" not in schema and not schema.get("x-kubernetes-int-or-string"):
        return
    if not isinstance(content, types) or (isinstance(content, bool) and bool not in types):
        yield f"{path}: is no {schema.get('type', 'integer or string')}"
        return
    yield from (f"{path}: {reason}" for reason in _reasons(content, schema))
    if isinstance(content, dict):
        yield from _field_errors(content, schema, path)
    if isinstance(content, list):
        for index, item in enumerate(content):
            yield from _errors(item, schema["items"], f"{path}[{index}]")
        keys = [
            # As texts: a key of a wrong type may be a list.
            repr([item.get(key) for key in _map_keys(schema)])
            for item in content
            if isinstance(item, dict)
        ]
        if _map_keys(schema) and len(set(keys)) < len(keys):
            yield f"{path}: has a key twice"


def _map_keys(schema: Schema) -> list[str]:
    keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])
    return keys


def _field_errors(content: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
    yield from (f"{path}.{name}: is missing" for name in schema.get("required", []) if name not in content)
    for name, value in content.items():
        field = field_of(schema, name)
        if field is not None:
            yield from _errors(value, field, f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields") and path != ".metadata":
            yield f"{path}.{name}: is unknown"


def _reasons(content: Any, schema: Schema) -> Iterator[str]:
    if "enum" in schema and content not in schema["enum"]:
        yield f"is none of {schema['enum']}"
    if isinstance(content, str) and re.search(schema.get("pattern", ""), content) is None:
        yield f"does not match {schema['pattern']}"
    limits = {str: "Length", list: "Items", dict: "Properties"}
    for kind, noun in limits.items():
        if isinstance(content, kind) and not (
            schema.get(f"min{noun}", 0) <= len(content) <= schema.get(f"max{noun}", len(content))
        ):
            yield f"has {len(content)} {noun.lower()}"
    if isinstance(content, int | float) and not isinstance(content, bool) and not _is_within(content, schema):
        yield "is out of bounds"


def _is_within(number: float, schema: Schema) -> bool:
    least, most = schema.get("minimum", number), schema.get("maximum", number)
    if (schema.get("exclusiveMinimum") and number == least) or (
        schema.get("exclusiveMaximum") and number == most
    ):
        return False
    return bool(least <= number <= most)
