"""Where the cluster's programs come from."""

from __future__ import annotations

import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from . import cluster_tools
from .cluster_tools import MONITORING, STAGES, TOOLS, NoTools, Tool, build, find, folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no programs from elsewhere."""
    monkeypatch.setattr(cluster_tools, "_CACHE", tmp_path)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path


def test_named_programs_take_precedence(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    for place in (assets, folder()):
        place.mkdir(parents=True)
        (place / "etcd").touch()
    (folder() / "kwok").touch()
    assert find("etcd") == folder() / "etcd"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert find("etcd") == assets / "etcd"
    assert find("kwok") == folder() / "kwok"


def test_a_missing_program_is_reported_with_the_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("go") is not None:
        with pytest.raises(NoTools, match="run: make cluster-tools"):
            find("etcd")
    monkeypatch.setenv("PATH", str(cache))
    for ask in (lambda: find("etcd"), build):
        with pytest.raises(NoTools, match="there is no Go"):
            ask()


def test_other_sums_are_other_programs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = tmp_path / "modules"
    shutil.copytree(cluster_tools.MODULES, modules)
    before = folder()
    monkeypatch.setattr(cluster_tools, "MODULES", modules)
    assert folder() == before
    with (modules / "etcd" / "go.sum").open("a") as file:
        file.write("example.com/other v1.0.0 h1:AAAA\n")
    assert folder() != before


def test_of_two_builds_at_a_time_one_builds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def write(name: str, target: Path) -> None:
        built.append(name)
        target.touch()
        time.sleep(0.02)

    monkeypatch.setattr(cluster_tools, "_why_no_go", lambda: "")
    monkeypatch.setattr(cluster_tools, "_go_build", lambda tool, target: write(tool.name, target))
    files = {name: partial(write, name) for name in cluster_tools._FILES}
    monkeypatch.setattr(cluster_tools, "_FILES", files)
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [*(tool.name for tool in TOOLS), STAGES, MONITORING]
    assert {file.name for file in folder().iterdir()} == {*built, ".lock"}


def test_a_failed_build_leaves_no_program(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tool: Tool, target: Path) -> None:
        target.write_text("half of it")
        raise OSError("no space")

    monkeypatch.setattr(cluster_tools, "_why_no_go", lambda: "")
    monkeypatch.setattr(cluster_tools, "_go_build", half)
    with pytest.raises(OSError, match="no space"):
        build()
    with pytest.raises(NoTools):
        find(TOOLS[0].name)
