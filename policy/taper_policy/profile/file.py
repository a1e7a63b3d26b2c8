"""A profile as a JSON file: written at once, read strictly, and checked against what it is to be used for.

`{"format_version": 4, "key": {...}, ..., "cells": [...], "prefill": {"1": ...}, "switch": {"1->2": ...}}`.
The fields are those of the dataclasses in `profile`.

Invariants (asserted by `tests/policy/profile/test_file.py`):
- a profile read back equals the one written;
- a reader sees the old file or the new one, never a part;
- everything that is missing, unknown, of another type or cannot be true is a `ValueError`
  that begins with the field's path; nothing has a default.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from taper_policy.profile.profile import Profile, ProfileKey

FORMAT_VERSION: Final = 4


def write_profile(profile: Profile, file: Path) -> None:
    """Replace `file` at once. Raises `OSError` where it cannot be written."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(_lines(profile_as_json(profile)))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_profile(file: Path, *, path: str = "profile") -> Profile:
    """The profile in `file`.

    Raises `OSError` where it cannot be read, and `ValueError`, which begins with `path` (the
    setting that named the file) and below it the field, for what is wrong in it.
    """
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {file} is not whole JSON: {error}") from None
    return profile_from_json(document, path=path)


def check_profile(profile: Profile, key: ProfileKey, *, path: str = "profile") -> None:
    """Raise `ValueError` unless `profile` is of `key`; it says what differs, and what would be right.

    An estimated profile is of no package version, so its versions are not compared.
    """
    pairs = [(name, getattr(profile.key, name), getattr(key, name)) for name in ("model", "device", "dtype")]
    if not profile.is_estimated:
        pairs += [
            (f"versions.{name}", profile.key.versions.get(name, "none"), key.versions.get(name, "none"))
            for name in sorted({*profile.key.versions, *key.versions})
        ]
    differing = [
        f"{path}.key.{name}: the profile is of {had!r}, here it must be {wanted!r}"
        for name, had, wanted in pairs
        if had != wanted
    ]
    if differing:
        raise ValueError("; ".join(differing))


def profile_as_json(profile: Profile) -> dict[str, Any]:
    """The document that `profile_from_json` reads."""
    return {
        "format_version": FORMAT_VERSION,
        **{field.name: getattr(profile, field.name) for field in fields(profile) if field.init},
        "key": asdict(profile.key),
        "degrees": list(profile.degrees),
        "prefill": {str(degree): asdict(terms) for degree, terms in sorted(profile.prefill.items())},
        "switch": {f"{one}->{two}": asdict(terms) for (one, two), terms in sorted(profile.switch.items())},
        "cells": [asdict(cell) for cell in profile.cells],
    }


def profile_from_json(document: Any, *, path: str = "profile") -> Profile:
    """The profile that `profile_as_json` wrote. Raises `ValueError` that begins with `path` and the field."""
    _require(isinstance(document, Mapping), "an object", document, path)
    # Before all else: what another version's fields mean is not known.
    version = document.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise ValueError(
            f"{path}.format_version: {version!r} cannot be read; it must be {FORMAT_VERSION}; measure again"
        )
    content = {name: value for name, value in document.items() if name != "format_version"}
    try:
        profile: Profile = _value(Profile, content, "")
        return profile
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None


def _value(kind: Any, content: Any, path: str) -> Any:
    """The value of a type in JSON's types, as the annotations of its fields say."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if content is None else _value(arguments[0], content, path)
    if origin is tuple:
        _require(isinstance(content, list), "a list", content, path)
        return tuple(_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(content))
    if origin is Mapping:
        _require(isinstance(content, Mapping), "an object", content, path)
        read_key, inner = _KEYS[arguments[0]], arguments[1]
        return {
            read_key(key, f"{path}.{key}"): _value(inner, item, f"{path}.{key}")
            for key, item in content.items()
        }
    if is_dataclass(kind):
        return _object(kind, content, path)
    types, words = _SCALARS[kind]
    is_right = isinstance(content, types) and (kind is bool or not isinstance(content, bool))
    _require(is_right, words, content, path)
    return kind(content)


def _object(kind: Any, content: Any, path: str) -> Any:
    """A dataclass of a JSON object: it has each of its fields, and no other."""
    _require(isinstance(content, Mapping), "an object", content, path)
    types = _field_types(kind)
    prefix = f"{path}." if path else ""
    for name in content:
        if name not in types:
            raise ValueError(f"{prefix}{name}: unknown; use {', '.join(types)}")
    for name in types:
        if name not in content:
            raise ValueError(f"{prefix}{name}: missing")
    return kind(**{name: _value(one, content[name], f"{prefix}{name}") for name, one in types.items()})


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    types = get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind) if field.init}


def _require(is_right: bool, words: str, content: object, path: str) -> None:
    if not is_right:
        text = repr(content)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise ValueError(f"{path}: must be {words}, is {shown}")


def _degree(key: object, path: str) -> int:
    match = re.fullmatch("[1-9][0-9]{0,8}", str(key))
    if match is None:
        raise ValueError(f"{path}: {key!r} is no degree")
    return int(match[0])


def _pair(key: object, path: str) -> tuple[int, int]:
    one, arrow, two = str(key).partition("->")
    if not arrow:
        raise ValueError(f"{path}: {key!r} is no pair of degrees like '1->2'")
    return _degree(one, path), _degree(two, path)


_SCALARS: Final[dict[type, tuple[Any, str]]] = {
    str: (str, "a text"),
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
}
_KEYS: Final[dict[Any, Callable[[object, str], Any]]] = {
    str: lambda key, path: _value(str, key, path),
    int: _degree,
    tuple[int, int]: _pair,
}


def _lines(document: Mapping[str, Any]) -> str:
    """The document as text, a cell a line."""
    cells = ",\n".join(f"    {json.dumps(cell, allow_nan=False)}" for cell in document["cells"])
    head = json.dumps({**document, "cells": []}, indent=2, allow_nan=False)
    empty = '"cells": []\n}'
    assert head.endswith(empty), "the cells come last"
    return f'{head.removesuffix(empty)}"cells": [\n{cells}\n  ]\n}}\n'
