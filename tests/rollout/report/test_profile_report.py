from __future__ import annotations

from pathlib import Path

from rich.console import Console

from taper_rollout.profiling.plot import plot_profile
from taper_rollout.profiling.table import profile_tables

from ..measured_profile import measured_profile


def test_the_tables_show_steps_prefills_and_switches() -> None:
    console = Console(width=120, record=True)
    for table in profile_tables(measured_profile()):
        console.print(table)
    text = console.export_text()
    assert "contexts of 32 to 256 tokens" in text
    [row] = [line for line in text.splitlines() if line.split("│")[1:2] == ["                  4 "]]
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["40.0 to 40.0", "80.0 to 80.0", "20.0 to 20.0"]
    for shown in ("TP1, 2 groups busy", "1,000", "TP1→TP2", "20%"):
        assert shown in text


def test_a_profile_without_switches_has_two_tables() -> None:
    assert len(list(profile_tables(measured_profile(switch={})))) == 2


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot_profile(measured_profile(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
