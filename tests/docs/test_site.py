"""The build of the site fails on dead links and orphan pages, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE"]
FOLDERS = ["docs", "charts", "images", "manifests", "benchmarks"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """All that the site is made of, but for the API pages, which take most of the time."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("api", "__pycache__"))
    for name in PAGES:
        shutil.copy(ROOT / name, tmp_path)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config["plugins"] = [plugin for plugin in config["plugins"] if plugin == "search"]
    config["nav"] = [section for section in config["nav"] if "API" not in section]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    return tmp_path


def _build(copy: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=100)


def test_the_site_builds_and_loads_nothing_from_elsewhere(copy: Path) -> None:
    built = _build(copy)
    assert built.returncode == 0, built.stderr
    loading = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s>\"]*"
    )
    pages = [*(copy / "build" / "site").rglob("*.html")]
    assert len(pages) > 30
    assert [found for page in pages for found in loading.findall(page.read_text())] == []


DAMAGES = [
    ("docs/start.md", "[x](nowhere.md)", "'nowhere.md'"),
    ("CONTRIBUTING.md", "[x](docs/nowhere.md)", "'docs/nowhere.md'"),
    ("docs/start.md", "[x](own-job.md#nowhere)", "an anchor '#nowhere'"),
    ("docs/start.md", "![x](images/nowhere.svg)", "'images/nowhere.svg'"),
    ("docs/orphan.md", "# Orphan", "orphan.md"),
]


def test_each_dead_link_and_each_orphan_page_fails(copy: Path) -> None:
    for page, text, _ in DAMAGES:
        with (copy / page).open("a") as file:
            file.write(f"\n{text}\n")
    built = _build(copy)
    assert built.returncode != 0
    assert f"Aborted with {len(DAMAGES)} warnings in strict mode" in built.stderr + built.stdout
    assert [complaint for _, _, complaint in DAMAGES if complaint not in built.stderr] == []


def test_the_api_pages_have_every_module(tmp_path: Path) -> None:
    """However deep it lies: the pages follow modules that move."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=100)
    for root, package in (("policy", "taper_policy"), ("api", "taper_api")):
        page = (tmp_path / "site" / "api" / f"{package}.html").read_text()
        files = [file.relative_to(ROOT / root) for file in (ROOT / root / package).rglob("*.py")]
        modules = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
        missing = [name for name in modules if name != package and f'id="{name}"' not in page]
        assert (len(modules) > 10, missing) == (True, [])
