"""The ledger as it is written, continued and read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from taper_api import JobError
from taper_policy.decision.ledger import DecisionEntry, StageEndEntry, entry_as_json
from taper_rollout.ledger.ledger_file import LedgerFile, read_ledger
from taper_rollout.report.recorder import Recorder

from ..report.ledger_builder import history_events
from ..report.stage_builder import make_stage


def write(directory: Path, *events: Any) -> Path:
    ledger = LedgerFile(directory)
    for event in events:
        ledger.append(event)
    return ledger.path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(path: Path) -> list[int | str]:
    """The steps that lie in the file in turn, and `start` where a history begins."""
    found = [line.get("step", line["entry"]) for line in lines(path)]
    return [one for index, one in enumerate(found) if index == 0 or one != found[index - 1]]


def test_an_entry_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    ledger = LedgerFile(tmp_path)
    for number, event in enumerate(history_events((1,)), start=1):
        ledger.append(event)
        assert len(lines(ledger.path)) == number
        assert lines(ledger.path)[-1] == {"replica": 0, "at": event.at, **event.entry}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, *history_events((1, 2)), *history_events((1,), replica=1))
    read = read_ledger(tmp_path)
    assert not read.is_cut_off
    assert [one.replica for one in read.histories] == [0, 1]
    for one, events in zip(
        read.histories, (history_events((1, 2)), history_events((1,), replica=1)), strict=True
    ):
        assert [entry_as_json(entry) for entry in (one.start, *one.entries)] == [e.entry for e in events]


def test_interleaved_replicas_are_separated(tmp_path: Path) -> None:
    mixed = [
        event
        for pair in zip(history_events((1,)), history_events((1,), replica=1), strict=False)
        for event in pair
    ]
    write(tmp_path, *mixed)
    one, other = read_ledger(tmp_path).histories
    assert (one.replica, other.replica) == (0, 1)
    assert len(one.entries) == len(other.entries) == len(mixed) // 2 - 1


def test_a_run_that_goes_on_replaces_what_it_does_again(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2, 3)))
    write(tmp_path, *history_events((3, 4)))
    assert steps(path) == ["start", 1, 2, "start", 3, 4]
    assert [[stage.step for stage in one.stages()] for one in read_ledger(tmp_path).histories] == [
        [1, 2],
        [3, 4],
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_from_the_start_replaces_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, *history_events((1, 2)), *history_events((1,), replica=1))
    path = write(tmp_path, *history_events((1,)))
    assert lines(path) == [{"replica": 0, "at": one.at, **one.entry} for one in history_events((1,))]


def test_a_replica_that_starts_again_in_a_run_loses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2)), *history_events((2, 3)))
    assert steps(path) == ["start", 1, 2, "start", 2, 3]


def test_a_stage_without_a_decision_forgets_as_well(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2, 3)))
    Recorder(tmp_path).record([make_stage(step=2)])
    assert steps(path) == ["start", 1]


def test_the_recorder_keeps_the_ledger(tmp_path: Path) -> None:
    Recorder(tmp_path).record(list(history_events((1,))))
    assert len(lines(tmp_path / "ledger.jsonl")) == len(history_events((1,)))


def test_a_killed_run_loses_the_line_that_it_was_writing(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    read = read_ledger(tmp_path)
    assert read.is_cut_off
    assert len(read.histories[0].entries) == len(history_events((1, 2))) - 2
    assert not isinstance(read.histories[0].entries[-1], StageEndEntry)


def test_a_run_after_a_killed_one_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2)))
    path.write_bytes(path.read_bytes()[:-40])
    write(tmp_path, *history_events((2, 3)))
    assert steps(path) == ["start", 1, "start", 2, 3]
    assert not read_ledger(tmp_path).is_cut_off


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    start, *_, end = history_events((1,))
    [question] = [event for event in history_events((1,)) if event.entry.get("number") == 1]
    choice = question.entry["choice"] | {"gain_seconds": float("inf")}
    write(tmp_path, start, dataclasses.replace(question, entry=question.entry | {"choice": choice}), end)
    decisions_of = read_ledger(tmp_path).histories[0].entries[0]
    assert isinstance(decisions_of, DecisionEntry)
    assert decisions_of.choice.gain_seconds == float("inf")


def corrupt(path: Path, line: int, content: bytes) -> None:
    rows = path.read_bytes().splitlines(keepends=True)
    rows[line] = content
    path.write_bytes(b"".join(rows))


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        (3, b'{"replica":0,"at":1.0,"ent\n', "line 4 is corrupt: "),
        (3, b"[1, 2]\n", "line 4 is corrupt: replica: missing"),
        (3, b'{"replica":0,"entry":"guess"}\n', "line 4 is corrupt: entry: 'guess' is unknown"),
        (-1, b"nothing\n", "is corrupt: "),
        (0, b"", "replica 0: its start is missing"),
        (2, b"\xff\xfe\n", "line 3 is corrupt: "),
    ],
    ids=["broken", "list", "unknown", "last", "no start", "bytes"],
)
def test_a_corrupt_ledger_says_where(tmp_path: Path, line: int, content: bytes, message: str) -> None:
    corrupt(write(tmp_path, *history_events((1,))), line, content)
    with pytest.raises(JobError, match=f"RUN: ledger.jsonl: .*{message}"):
        read_ledger(tmp_path)


def test_a_corrupt_line_is_not_lost_when_the_run_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path, *history_events((1, 2)))
    corrupt(path, 2, b"not json\n")
    write(tmp_path, *history_events((2,)))
    assert b"not json\n" in path.read_bytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no directory"),
        (lambda path: path.mkdir(), "has no ledger.jsonl: only a run with the predictor policy"),
        (lambda path: (path.mkdir(), (path / "ledger.jsonl").touch()), "has no entry"),
    ],
    ids=["no run", "no ledger", "empty"],
)
def test_what_is_no_ledger_is_reported(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(JobError, match=message):
        read_ledger(tmp_path / "run")
