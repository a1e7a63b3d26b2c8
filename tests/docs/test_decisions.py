"""Each decision has a date and a status, and the index repeats both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"
INDEX = (DECISIONS / "README.md").read_text(encoding="utf-8")
PAGES = sorted(page for page in DECISIONS.glob("*.md") if page.name != "README.md")
HEADER = re.compile(
    r"# (?P<title>.+)\n\nDate: (?P<date>\d{4}-\d\d-\d\d)\. "
    r"Status: (?P<status>accepted|superseded)(?: by \[[^]]+\]\((?P<successor>[^)]+)\))?\.\n"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_begins_with_its_date_and_status(page: Path) -> None:
    header = HEADER.match(page.read_text(encoding="utf-8"))
    assert header is not None
    assert (header["status"] == "superseded") == (header["successor"] is not None)
    row = f"| [{header['title']}]({page.name}) | {header['date']} | {header['status']} |"
    assert row in INDEX
