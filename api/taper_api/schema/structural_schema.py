"""Pydantic's JSON schema of a block as a structural schema, the only kind that a CRD may hold.

A structural schema has no `$ref`, one type for each field and no alternatives: blocks are written
out where they are used; an optional field is one that is not required, for an API server drops
nulls; keys of maps are checked by CEL, for which the pattern of a key has no other place; a free
JSON value is `x-kubernetes-preserve-unknown-fields`.

Invariants (asserted by `tests/api/test_crd.py`): every string, list and map has a bound, except
free JSON values; there is a description for each field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from taper_api.rules.rule import CelRule

Schema = dict[str, Any]

# Taken over as they are, in this order.
_KEYWORDS = (
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)


def structural_schema(model: type[BaseModel], path: str) -> Schema:
    """The schema of a block. `path` is where it lies in its resource, for the messages of rules on keys."""
    schema = model.model_json_schema(by_alias=True)
    return _converted(schema, schema.get("$defs", {}), path)


def add_rules(schema: Schema, rules: Iterable[CelRule]) -> None:
    """Put each rule at its place in the schema of a resource. `KeyError` for a place that is not there."""
    for rule in rules:
        place = schema
        for part in rule.at.split(".") if rule.at else ():
            place = place["properties"][part.removesuffix("[]")]
            if part.endswith("[]"):
                place = place["items"]
        place.setdefault("x-kubernetes-validations", []).append(rule.as_schema())


def _converted(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    node = _resolved(node, definitions)
    schema: Schema = {}
    if "description" in node:
        schema["description"] = " ".join(str(node["description"]).partition("\n\n")[0].split())
    if "type" in node:
        schema["type"] = node["type"]
    schema |= {name: node[name] for name in _KEYWORDS if name in node}
    if "const" in node:
        schema["enum"] = [node["const"]]
    schema |= _bounds(node)
    if node.get("default") is not None and "properties" not in node:
        schema["default"] = node["default"]
    if "items" in node:
        schema["items"] = _converted(node["items"], definitions, f"{path}[]")
    if "properties" in node:
        if "required" in node:
            schema["required"] = node["required"]
        schema["properties"] = {
            name: _converted(field, definitions, f"{path}.{name}")
            for name, field in node["properties"].items()
        }
        if node.get("default") is not None:
            # In full: a server checks a default by the rules before it fills in those of its fields.
            fields = schema["properties"].items()
            schema["default"] = {name: field["default"] for name, field in fields if "default" in field}
    elif node.get("type") == "object":
        schema |= _map(node, definitions, path)
    return schema


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """A node without `$ref` and without the alternative `null`; what is written beside them wins."""
    while "$ref" in node or "anyOf" in node:
        beside = {name: value for name, value in node.items() if name not in ("$ref", "anyOf")}
        if "$ref" in node:
            within = definitions[node["$ref"].rpartition("/")[2]]
        else:
            variants = [variant for variant in node["anyOf"] if variant.get("type") != "null"]
            if len(variants) != 1:
                raise ValueError(f"a structural schema has no alternatives: {variants}")
            within = variants[0]
        node = {**within, **beside}
    return node


def _bounds(node: Schema) -> Schema:
    """Bounds of a number. What excludes its bound is a flag in OpenAPI, not a number."""
    bounds: Schema = {}
    for bound in ("Minimum", "Maximum"):
        if bound.lower() in node:
            bounds[bound.lower()] = node[bound.lower()]
        if f"exclusive{bound}" in node:
            bounds |= {bound.lower(): node[f"exclusive{bound}"], f"exclusive{bound}": True}
    return bounds


def _map(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    patterns = node.get("patternProperties", {})
    value = next(iter(patterns.values()), node.get("additionalProperties"))
    values = _converted(value, definitions, f"{path}.*") if isinstance(value, dict) else {}
    if not values:
        return {"x-kubernetes-preserve-unknown-fields": True}
    names = node.get("propertyNames", {})
    checks = [f"key.matches(r'{pattern}')" for pattern in patterns]
    checks += [f"size(key) <= {names['maxLength']}"] if "maxLength" in names else []
    checks += [f"key in {names['enum']}"] if "enum" in names else []
    rules = {
        "rule": f"self.all(key, {' && '.join(checks)})",
        "message": f"{path} has a key that does not fit: {_keys_in_words(names, list(patterns))}",
    }
    return {"additionalProperties": values, **({"x-kubernetes-validations": [rules]} if checks else {})}


def _keys_in_words(names: Schema, patterns: list[str]) -> str:
    if "enum" in names:
        return f"use {' or '.join(names['enum'])}"
    return (
        f"use keys of at most {names.get('maxLength', 'any number of')} characters that match {patterns[0]}"
    )
