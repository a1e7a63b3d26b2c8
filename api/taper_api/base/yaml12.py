"""YAML as people write it today.

PyYAML follows YAML 1.1, in which `off` is false, `1e-6` is text, `2024-01-01` is a date and
a name given twice silently wins. This loader takes scalars as YAML 1.2 does and refuses a
name given twice.

PyYAML also recurses into what it composes, so a file that is nested deep enough would end in a
RecursionError. Below level `MAX_LEVELS` this loader puts an empty mapping instead. No field of a job
allows that many levels, so that the check of the field refuses what was cut, by the name of the field.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

MAX_LEVELS: Final = 100


class Yaml12Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2's core schema, and a bound to the depth."""

    _level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the document; an empty mapping where it is nested too deep."""
        if self._level == MAX_LEVELS and self.check_event(yaml.CollectionStartEvent):
            return self._passed_over()
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def _passed_over(self) -> yaml.Node:
        start = end = self._next_event()
        depth = 1
        while depth:
            end = self._next_event()
            depth += isinstance(end, yaml.CollectionStartEvent) - isinstance(end, yaml.CollectionEndEvent)
        return yaml.MappingNode("tag:yaml.org,2002:map", [], start.start_mark, end.end_mark)  # type: ignore[arg-type]

    def _next_event(self) -> yaml.Event:
        event: yaml.Event = self.get_event()  # type: ignore[no-untyped-call]
        return event

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node; `ConstructorError` for a name given twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    scalars = (
        ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
        (
            "tag:yaml.org,2002:float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+.0123456789"),
        ),
    )
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_characters in scalars:
        for character in first_characters:
            resolvers.setdefault(character, []).append((tag, re.compile(f"^(?:{pattern})$")))
    return resolvers


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


Yaml12Loader.yaml_implicit_resolvers = _resolvers()
# YAML 1.1 reads 010 as octal; the resolver above lets only decimal digits through.
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _int)
