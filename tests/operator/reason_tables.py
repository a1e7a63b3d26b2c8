"""What the operator reports about a job, by the tables of `docs/operator-reference.md`.

The plans' tests assert that it reports nothing else, and that every reason of a condition can occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "operator-reference.md"
# In place of a reason: one that comes from elsewhere, such as Kubernetes' reason of a disruption.
FROM_ELSEWHERE = "from elsewhere"


def rows_of(title: str) -> Iterator[tuple[str, ...]]:
    """The rows of the table below a title, each with its cells, without the last one, the meaning."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    for line in table[2:]:
        *cells, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        assert meaning, line
        yield tuple(cell.strip("`") for cell in cells)


# Condition, status, reason.
CONDITIONS = list(rows_of("Conditions"))
# Outcome, reason.
ATTEMPTS = list(rows_of("Outcomes of attempts"))
# Reason, type.
EVENTS = list(rows_of("Events"))
