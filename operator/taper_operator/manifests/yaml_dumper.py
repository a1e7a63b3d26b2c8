"""Writes manifests as YAML that every reader of YAML takes the same way.

A text that YAML 1.1 or 1.2 could take for something else (`off`, `1e3`, `1:30`) is quoted; what occurs twice
is written twice, without anchors and aliases.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z][-A-Za-z0-9_./]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


class ManifestDumper(yaml.SafeDumper):
    """See the module's docstring. Use it with `yaml.dump` and `yaml.dump_all`."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


ManifestDumper.add_representer(str, _represent_text)
