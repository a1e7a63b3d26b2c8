"""The rooms of each package as tables: what is in them, and which may import which.

The layers come from the contracts in pyproject.toml that import-linter enforces, the text from docstrings.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {
    "taper_api": "api",
    "taper_policy": "policy",
    "taper_rollout": "rollout",
    "taper_operator": "operator",
}
BEGIN, END = "<!-- rooms: made by `make docs` -->\n", "<!-- end of rooms -->\n"


def with_rooms(page: str) -> str:
    """The page with its tables of rooms updated. Raises ValueError if it has no place for them."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {BEGIN.strip()} … {END.strip()}")
    return before + BEGIN + "\n" + "\n".join(_table(package) for package in SOURCES) + "\n" + END + after


def layers_of(package: str) -> list[list[str]]:
    """Rooms and modules of a package, top layer first; those of one layer don't import each other."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    listed = next(c["layers"] for c in linter["contracts"] if c.get("containers") == [package])
    return [[name.strip() for name in layer.split("|")] for layer in listed]


def rooms_of(package: str, room: str) -> Iterator[str]:
    """A room and the rooms in it, each as a path below its package; a module is a room of its own."""
    folder = ROOT / SOURCES[package] / package
    yield room
    if (folder / room).is_dir():
        for inner in sorted((folder / room).glob("*/__init__.py")):
            yield f"{room}/{inner.parent.name}"


def _table(package: str) -> str:
    layers = layers_of(package)
    rows = "".join(
        f"| {len(layers) - place} | `{room}` | {_summary(package, room)} |\n"
        for place, layer in enumerate(layers)
        for top in layer
        for room in rooms_of(package, top)
    )
    return f"### `{SOURCES[package]}/{package}`\n\n| layer | room | what is in it |\n|---|---|---|\n{rows}"


def _summary(package: str, room: str) -> str:
    place = ROOT / SOURCES[package] / package / room
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
