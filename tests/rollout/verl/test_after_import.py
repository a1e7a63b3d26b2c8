"""Actions run after the import of their module, and never break it."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

from taper_rollout.verl.after_import import AfterImport


@pytest.fixture
def after_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AfterImport:
    (tmp_path / "taper_example.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "taper_example", raising=False)
    return AfterImport()


def test_an_action_runs_once_after_the_import(after_import: AfterImport) -> None:
    seen: list[int] = []
    after_import.add("taper_example", lambda module: seen.append(module.value))
    assert seen == []
    module = importlib.import_module("taper_example")
    assert seen == [1]
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    assert module.__spec__.loader.get_source("taper_example") == "value = 1\n"  # type: ignore[attr-defined]
    importlib.reload(module)
    assert seen == [1]


def test_an_action_runs_at_once_for_an_imported_module(after_import: AfterImport) -> None:
    importlib.import_module("taper_example")
    seen: list[ModuleType] = []
    after_import.add("taper_example", seen.append)
    assert len(seen) == 1


def test_a_failure_is_logged_and_the_import_succeeds(
    after_import: AfterImport, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(module: ModuleType) -> None:
        raise RuntimeError("moved")

    after_import.add("taper_example", fail)
    with caplog.at_level(logging.ERROR):
        assert importlib.import_module("taper_example").value == 1
    assert "rollout.name=taper will not work" in caplog.text
    assert "moved" in caplog.text


def test_a_missing_module_stays_missing(after_import: AfterImport) -> None:
    after_import.add("taper_no_such_module", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("taper_no_such_module")
