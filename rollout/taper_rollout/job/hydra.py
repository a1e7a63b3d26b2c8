"""Writes settings in Hydra's override syntax, so that Hydra reads the same value back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def override(name: str, value: Any) -> str:
    """`name=value`. `name` may carry Hydra's `+` (add) or `++` (add or replace)."""
    return f"{name}={written(value)}"


def written(value: Any) -> str:
    """A value in Hydra's grammar. Raises `ValueError` for a value that the grammar cannot express."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(written(item) for item in value) + "]"
    raise ValueError(f"{type(value).__name__} {value!r} cannot be written as a Hydra override")


def _quoted(text: str) -> str:
    if "\n" in text or text.endswith("\\"):
        raise ValueError(
            f"{text!r} cannot be written as a Hydra override: line break, or backslash at the end"
        )
    # Interpolations stay as they are, as in a raw override. Only what would end the string is escaped.
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _key(key: Any) -> str:
    if not isinstance(key, str) or not key or not all(part.isalnum() or part in "_-./" for part in key):
        raise ValueError(f"{key!r} cannot be a key in a Hydra override; use letters, digits, _, -, . and /")
    return key
