"""The architecture page names files and rooms that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ["api/taper_api", "operator/taper_operator", "policy/taper_policy", "rollout/taper_rollout"]
WALKS = [walk.partition("\n")[0] for walk in PAGE.split("## Walk: ")[1:]]


def named_files(text: str) -> list[str]:
    """Paths in backticks: of the repository, or below one of its packages."""
    return re.findall(r"`((?:\w+/)*\w+\.py)`", text)


def test_there_are_four_walks_with_file_names() -> None:
    assert len(WALKS) == 4
    assert all(len(named_files(walk)) >= 3 for walk in PAGE.split("## Walk: ")[1:])


@pytest.mark.parametrize("name", sorted(set(named_files(PAGE))))
def test_the_files_that_it_names_exist(name: str) -> None:
    assert any((ROOT / place / name).is_file() for place in (".", *PACKAGES))
