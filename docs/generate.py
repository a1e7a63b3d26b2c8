"""Makes what follows from the code, pages of docs/ and CRDs: `make docs`. A test fails when one is stale."""

from __future__ import annotations

from pathlib import Path

from taper_api.crd import crd_files
from taper_api.reference import configuration_reference
from taper_rollout.metric_page import metric_page
from taper_rollout.support import support_matrix

DOCS = Path(__file__).parent
CRDS = DOCS.parent / "manifests" / "crds"


def pages() -> dict[str, str]:
    """File name in docs/ and content of each generated page."""
    return {
        "configuration.md": configuration_reference(),
        "metrics.md": metric_page(),
        "support-matrix.md": support_matrix(),
    }


def files() -> dict[Path, str]:
    """Place and content of each generated file."""
    crds = {CRDS / name: content for name, content in crd_files().items()}
    return {DOCS / name: content for name, content in pages().items()} | crds


if __name__ == "__main__":
    for file, content in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        print(f"docs: wrote {file.relative_to(DOCS.parent)}")
