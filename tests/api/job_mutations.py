"""Jobs with one thing wrong: `mutated_jobs()`.

Half of them break a rule between fields (`rule_violations`), half break one field of a right job:
the schema is walked beside the job, and what its keywords exclude is put there. So every
keyword of the schema is tried in every place where it stands, and both the parser and an API
server must refuse all of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from .admission import Schema, admitted, field_of
from .job_specs import valid_jobs
from .rule_violations import VIOLATIONS, broken

_WRONG_TYPES: dict[str, list[Any]] = {
    "string": [7, True, [], {}],
    "integer": ["7", 1.5, True, [], {}],
    "number": ["7", True, [], {}],
    "boolean": ["true", 1, []],
    "array": ["a", 3, {}],
    "object": ["a", 3, []],
    "int-or-string": [1.5, True, [], {}],
}
_TEXTS = ["", " ", "-", "a b", "é", "..", "/", "a/../b", "_", ":", "a\nb", "A", "0", "1Zi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MutatedJob:
    """A job, the place where it is wrong, and how."""

    job: dict[str, Any]
    place: str
    what: str


@st.composite
def mutated_jobs(draw: st.DrawFn, schema: Schema) -> MutatedJob:
    """`schema`: of the whole resource."""
    if draw(st.booleans()):
        start = draw(st.sampled_from(sorted(VIOLATIONS)))
        return MutatedJob(job=broken(VIOLATIONS[start]), place=start, what="breaks a rule")
    return draw(broken_fields(schema))


@st.composite
def broken_fields(draw: st.DrawFn, schema: Schema) -> MutatedJob:
    """Right jobs but for one field. The jobs have their defaults filled in, so that every field is there."""
    job = draw(valid_jobs())
    if draw(st.booleans()):
        job = admitted(job, schema)
    places = list(_places(job["spec"], schema["properties"]["spec"], ("spec",)))
    path, field, is_required = draw(st.sampled_from(places))
    what, value = draw(st.sampled_from(list(_wrong_values(_at(job, path), field, is_required=is_required))))
    job = copy.deepcopy(job)
    block = _at(job, path[:-1])
    if what == "missing":
        del block[path[-1]]
    else:
        block[path[-1]] = value
    return MutatedJob(job=job, place=".".join(map(str, path)), what=what)


Path = tuple[str | int, ...]


def _places(
    content: Any, schema: Schema, path: Path, *, is_required: bool = True
) -> Iterator[tuple[Path, Schema, bool]]:
    """Every value of an object that its schema says something about."""
    yield path, schema, is_required
    if isinstance(content, dict):
        for name, value in content.items():
            field = field_of(schema, name)
            if field is not None and value is not None:
                required = name in schema.get("required", [])
                yield from _places(value, field, (*path, name), is_required=required)
    if isinstance(content, list):
        for index, item in enumerate(content):
            yield from _places(item, schema["items"], (*path, index), is_required=False)


def _at(content: Any, path: Path) -> Any:
    for part in path:
        content = content[part]
    return content


def _wrong_values(value: Any, schema: Schema, *, is_required: bool) -> Iterator[tuple[str, Any]]:
    """Values that a place must not have, each with what is wrong about it."""
    kind = schema.get("type", "int-or-string")
    yield from (("another type", wrong) for wrong in _WRONG_TYPES[kind])
    if is_required and "default" not in schema:
        yield from (("missing", None), ("null", None))
    if "enum" in schema:
        yield from (
            ("none of the values", wrong) for wrong in (["zz", ""] if kind == "string" else [0, 3, 16])
        )
    yield from _wrong_numbers(schema)
    if isinstance(value, str):
        yield from _wrong_texts(schema)
    if isinstance(value, list):
        yield from _wrong_lists(value, schema)
    if isinstance(value, dict):
        yield from _wrong_objects(value, schema)


def _wrong_numbers(schema: Schema) -> Iterator[tuple[str, Any]]:
    if "minimum" in schema:
        yield "too small", schema["minimum"] - (0 if schema.get("exclusiveMinimum") else 1)
    if "maximum" in schema:
        yield "too large", schema["maximum"] + (0 if schema.get("exclusiveMaximum") else 1)


def _wrong_texts(schema: Schema) -> Iterator[tuple[str, Any]]:
    if "pattern" in schema:
        yield from (
            ("another pattern", text) for text in _TEXTS if re.search(schema["pattern"], text) is None
        )
    if schema.get("minLength", 0) > 0:
        yield "too short", ""
    if "maxLength" in schema:
        yield "too long", "a" * (schema["maxLength"] + 1)


def _wrong_lists(value: list[Any], schema: Schema) -> Iterator[tuple[str, Any]]:
    if schema.get("minItems", 0) > 0:
        yield "too few", []
    if value:
        yield "too many", [value[0]] * (schema["maxItems"] + 1)
        yield "null in a list", [*value, None]
        yield from (("given twice", [*value, value[0]]) for _ in schema.get("x-kubernetes-list-map-keys", []))


def _wrong_objects(value: dict[str, Any], schema: Schema) -> Iterator[tuple[str, Any]]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        yield "too many", {f"a{index}": 1 for index in range(schema["maxProperties"] + 1)}
    elif "properties" in schema:
        yield "an unknown field", {**value, "unknown": 1}
    else:
        yield "too many", {f"a{index}": "" for index in range(schema["maxProperties"] + 1)}
        yield "a key that does not fit", {**value, "not a key": "true"}
