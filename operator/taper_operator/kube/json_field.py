"""Reading fields of objects that others write: what is missing or of another type is empty, never an error.

Only for what is observed. A value that decides is checked by who decides: a status that makes no
sense then says nothing, and nothing is done about it.
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
    """Whether a condition holds; None if nobody says."""
    for condition in mappings_at(obj, *path):
        if condition.get("type") == kind:
            return {"True": True, "False": False}.get(text_at(condition, "status"))
    return None
