"""`taper replay`: the same decisions again, or by other settings others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taper_rollout import cli
from taper_rollout.ledger.ledger_file import CUT_OFF

from ..report.ledger_builder import decisions_of, history_events
from .test_explain import write

Capture = pytest.CaptureFixture[str]


def replay(*arguments: object) -> int:
    return cli.main(["replay", *map(str, arguments)])


def test_all_decisions_are_the_same_again(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, history_events((1, 2, 3)), history_events((1, 2), replica=1))
    assert replay(tmp_path) == 0
    number = len(decisions_of(history_events((1, 2, 3)))) + len(
        decisions_of(history_events((1, 2), replica=1))
    )
    assert capsys.readouterr().out == f"{number} decisions of 5 stages: {number} equal, 0 different\n"


def test_a_resumed_run_is_replayed_history_by_history(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, history_events((1, 2, 3)))
    write(tmp_path, history_events((3, 4)))
    assert replay(tmp_path) == 0
    assert "of 4 stages" in capsys.readouterr().out


def test_other_settings_give_others_which_are_listed(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, history_events((1, 2)))
    assert replay(tmp_path, "--set", "margin_seconds=300", "--set", "confidence=0.5") == 0
    shown = capsys.readouterr().out.splitlines()
    number = len(decisions_of(history_events((1, 2))))
    assert shown[0].startswith("step 1, replica 0, decision 1, 32 live in TP1:")
    assert shown[1].startswith("  in the run: TP8, because ")
    assert shown[2].startswith("  now: TP1, because ") and "margin of 300." in shown[2]
    assert shown[3:] == [f"{number} decisions of 2 stages: {number - 1} equal, 1 different"]


@pytest.mark.parametrize(
    ("name", "value"), [("gain_seconds", 3.5), ("degree", 1)], ids=["a number", "the choice"]
)
def test_a_decision_that_differs_exits_with_1(
    tmp_path: Path, capsys: Capture, name: str, value: float
) -> None:
    path = write(tmp_path, history_events((1,))) / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["choice"][name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert replay(tmp_path) == 1
    assert (
        f"of 1 stages: {len(decisions_of(history_events((1,)))) - 1} equal, 1 different"
        in capsys.readouterr().out
    )


def test_lengths_that_are_missing_make_other_decisions(tmp_path: Path) -> None:
    path = write(tmp_path, history_events((1, 2))) / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"finished": []} if "finished" in row else {}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert replay(tmp_path) == 1


def test_a_ledger_that_was_cut_off_is_replayed_as_far_as_it_goes(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, history_events((1, 2))) / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert replay(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == CUT_OFF


def test_a_ledger_with_a_gap_is_refused(tmp_path: Path, capsys: Capture) -> None:
    events = history_events((1, 2))
    without_end = [event for event in events if event.entry["entry"] != "stage end"]
    write(tmp_path, tuple(without_end))
    assert replay(tmp_path) == 2
    assert "taper: RUN: replica 0: step 2 follows step 1, whose end is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        (
            "margin=1",
            "--set margin=1: must be NAME=VALUE, with one of margin_seconds, margin_share, confidence",
        ),
        ("confidence", "--set confidence: '' is not a number"),
        ("confidence=much", "--set confidence=much: 'much' is not a number"),
        ("confidence=2", "--set confidence=2: 2.0 is not valid; it must be less than or equal to 1"),
        (
            "margin_seconds=-1",
            "--set margin_seconds=-1: -1.0 is not valid; it must be greater than or equal to 0",
        ),
        ("margin_seconds=nan", "--set margin_seconds=nan: nan is not valid; it must be a finite number"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, capsys: Capture, setting: str, shown: str) -> None:
    write(tmp_path, history_events((1,)))
    assert replay(tmp_path, "--set", setting) == 2
    assert shown in capsys.readouterr().err


def test_a_run_without_a_ledger_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert replay(tmp_path) == 2
    assert "has no ledger.jsonl: only a run with the predictor policy" in capsys.readouterr().err
