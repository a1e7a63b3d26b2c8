"""Reads fields of objects that others write: a missing field, or one of a wrong type, reads as empty.

Only for observed state: a malformed status reads as an empty one, and nothing is done about it. Code that
decides by a value must check it.
"""

from __future__ import annotations

from typing import Any


def field_at(obj: Any, *path: str) -> Any:
    """The value at a path, None where there is none."""
    for name in path:
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def text_at(obj: Any, *path: str) -> str:
    """The text at a path, empty where there is none."""
    value = field_at(obj, *path)
    return value if isinstance(value, str) else ""


def count_at(obj: Any, *path: str) -> int:
    """The number at a path, 0 where there is none."""
    value = field_at(obj, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def mappings_at(obj: Any, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at a path."""
    value = field_at(obj, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def is_condition_true(obj: Any, kind: str, *path: str) -> bool | None:
    """Whether a condition is True; None if it is Unknown or absent."""
    for condition in mappings_at(obj, *path):
        if condition.get("type") == kind:
            return {"True": True, "False": False}.get(text_at(condition, "status"))
    return None
