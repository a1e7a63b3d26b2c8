"""Makes the pages of docs/ that follow from the code: `make docs`. A test fails when they are stale."""

from __future__ import annotations

from pathlib import Path

from taper_api.reference import configuration_reference
from taper_rollout.metric_page import metric_page
from taper_rollout.support import support_matrix

DOCS = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name in docs/ and content of each generated page."""
    return {
        "configuration.md": configuration_reference(),
        "metrics.md": metric_page(),
        "support-matrix.md": support_matrix(),
    }


if __name__ == "__main__":
    for name, content in pages().items():
        (DOCS / name).write_text(content, encoding="utf-8")
        print(f"docs: wrote docs/{name}")
