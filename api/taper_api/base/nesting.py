"""How deeply mappings and lists are nested in each other."""

from __future__ import annotations

from typing import Any


def is_deeper(content: Any, levels: int) -> bool:
    """Whether content in JSON's types is nested in more levels than that; a scalar has none, `{}` has one.

    Takes one level at a time and never recurses, so that no depth is too much for it. A mapping that
    contains itself, as YAML's aliases allow, is deeper than any bound.
    """
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(levels):
        # By identity: aliases can name the same list a billion times.
        inner = {
            id(child): child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        }
        level = list(inner.values())
        if not level:
            return False
    return bool(level)
