"""What git knows of the repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tracked() -> dict[Path, str]:
    """Git's mode of each tracked file, by path below the root; without those that are deleted here.

    A source archive has no git, and nothing in it is tracked: its tests are skipped.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("a source archive, no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-s", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    entries = (entry.partition("\t") for entry in listed.stdout.split("\0") if entry)
    modes = {Path(name): fields.split()[0] for fields, _, name in entries}
    return {path: mode for path, mode in modes.items() if os.path.lexists(ROOT / path)}
