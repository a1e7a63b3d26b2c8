"""The recorded terminal shows what a terminal would show in the end, and nothing of the machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_demo", ROOT / "docs" / "record_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plain(recorder: ModuleType, written: str) -> list[str]:
    screen = recorder.Screen()
    screen.write(written)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in screen.lines()]


def test_progress_lines_keep_their_last_state(recorder: ModuleType) -> None:
    bars = "steps 0/2\r\nstage 0/8\r\x1b[2K\x1b[1A\x1b[2Kstep 1 done\r\nsteps 1/2\r\nstage 3/8"
    assert _plain(recorder, bars) == ["step 1 done", "steps 1/2", "stage 3/8"]


def test_text_after_a_carriage_return_replaces_what_it_covers(recorder: ModuleType) -> None:
    assert _plain(recorder, "12 of 20\r13") == ["13 of 20"]


def test_cells_keep_the_colours_that_they_were_written_in(recorder: ModuleType) -> None:
    screen = recorder.Screen()
    screen.write("a\x1b[1m\x1b[32mb\x1b[0mc")
    assert screen.lines() == ["a\x1b[0m\x1b[1m\x1b[32mb\x1b[0mc"]


def test_a_real_command_is_recorded_from_a_terminal(recorder: ModuleType) -> None:
    assert recorder.record(["sh", "-c", "test -t 1 && tput cols"], deadline_seconds=20).strip() == "100"


def test_a_command_that_fails_leaves_no_picture(recorder: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        recorder.record(["sh", "-c", "exit 3"], deadline_seconds=20)


def test_a_command_that_does_not_end_is_ended(recorder: ModuleType) -> None:
    with pytest.raises(TimeoutError):
        recorder.record(["sleep", "60"], deadline_seconds=0.2)


def test_the_picture_does_not_name_the_directory_of_the_repository(recorder: ModuleType) -> None:
    with pytest.raises(ValueError, match="would show"):
        recorder.drawn([f"written to {ROOT}/runs"], title="x")


@pytest.mark.parametrize(
    "picture", sorted((ROOT / "docs" / "images").rglob("*.svg")), ids=lambda file: file.name
)
def test_pictures_load_nothing(picture: Path) -> None:
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", picture.read_text(encoding="utf-8"))
    loaded = re.findall(r'(?:href|src)="(?!#)[^"]*"|url\((?!#)[^)]*\)|@import|<script', text)
    assert loaded == []
