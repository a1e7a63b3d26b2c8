"""`taper explain`: each switch with its reason and outcome, or the decision that came closest to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taper_policy.decision.correction import Correction
from taper_policy.decision.ledger import CorrectionEntry
from taper_rollout import cli
from taper_rollout.events import LedgerEntry
from taper_rollout.ledger.ledger_file import CUT_OFF, LedgerFile

from ..report.ledger_builder import decisions_of, event, history_events

Explain = Callable[..., str]


def write(directory: Path, *histories: tuple[LedgerEntry, ...]) -> Path:
    ledger = LedgerFile(directory)
    for events in histories:
        for one in events:
            ledger.append(one)
    return directory


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    def explained(*arguments: object) -> str:
        assert cli.main(["explain", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return explained


def paragraphs(text: str) -> list[list[str]]:
    return [paragraph.splitlines() for paragraph in text.split("\n\n") if paragraph.strip()]


def test_a_switch_is_shown_with_its_reason_and_outcome(tmp_path: Path, explain: Explain) -> None:
    [shown] = paragraphs(explain(write(tmp_path, history_events((1,)))))
    questions = decisions_of(history_events((1,)), "question")
    [outcome] = decisions_of(history_events((1,)), "outcome")
    [question] = [one for one in questions if one["number"] == outcome["switch"]["question"]]
    live = len(question["snapshot"]["live"])
    assert shown[0] == f"step 1, replica 0: {len(questions)} decisions, 1 switch"
    assert shown[1] == f"  decision {question['number']}, {live} live: from TP1 to TP8"
    assert shown[2].startswith("    TP1: ")
    assert shown[3].startswith("    TP8: ") and "with a pause of " in shown[3]
    assert shown[4] == f"    because {question['choice']['reason']}"
    pause, gain = outcome["switch"]["predicted_pause_seconds"], outcome["switch"]["predicted_gain_seconds"]
    assert shown[5] == (
        f"    then: pause {1250 * pause:.0f} ms (predicted {1000 * pause:.0f} ms), "
        f"gain +{gain / 2:.2f} s (predicted +{gain:.2f} s)"
    )
    assert shown[6].startswith("  it took ") and shown[8].startswith("  best plan: ")
    assert len(shown) == 9


def test_without_a_switch_it_is_what_came_closest(tmp_path: Path, explain: Explain) -> None:
    [shown] = paragraphs(explain(write(tmp_path, history_events((1, 2))), "--step", 2))
    questions = [one for one in decisions_of(history_events((1, 2)), "question") if one["step"] == 2]
    closest = max(questions, key=lambda one: one["choice"]["gain_seconds"])
    assert shown[0] == f"step 2, replica 0: {len(questions)} decisions, 0 switches"
    assert shown[1] == "  first layout, 32 requests expected: TP8"
    assert shown[4].startswith(f"  decision {closest['number']}, ") and shown[4].endswith("TP8 stays")
    assert shown[7] == f"    because {closest['choice']['reason']}"


def test_in_full_every_decision_is_shown_with_all_layouts(tmp_path: Path, explain: Explain) -> None:
    [shown] = paragraphs(explain(write(tmp_path, history_events((1,))), "-v"))
    numbers = [line.split(",")[0].split()[1] for line in shown if line.startswith("  decision ")]
    assert numbers == [str(one["number"]) for one in decisions_of(history_events((1,)), "question")]
    assert sum(line.startswith("    TP") for line in shown) == 4 * len(numbers)


def test_in_full_the_correction_of_the_profile_is_shown_from_its_stage_on(
    tmp_path: Path, explain: Explain
) -> None:
    events = list(history_events((1, 2, 3)))
    correction = Correction({1: {0: 1.25, 3: 0.9}, 8: {2: 1.0}})
    at = next(index for index, one in enumerate(events) if one.entry.get("step") == 2)
    events.insert(at, event(CorrectionEntry(step=2, correction=correction)))
    first, *later = paragraphs(explain(write(tmp_path, tuple(events)), "-v"))
    line = (
        "  measured over profiled step time, by requests of a group: "
        "TP1 1.25 from 1 on, 0.90 from 8 on; TP8 1.00 from 4 on"
    )
    assert not any("measured over" in shown for shown in first)
    assert [shown[1] for shown in later] == [line, line]


def test_one_step_and_one_replica_can_be_asked_for(tmp_path: Path, explain: Explain) -> None:
    write(tmp_path, history_events((1, 2)), history_events((1, 2), replica=1))
    heads = [shown[0].split(":")[0] for shown in paragraphs(explain(tmp_path))]
    assert heads == [f"step {step}, replica {replica}" for replica in (0, 1) for step in (1, 2)]
    [shown] = paragraphs(explain(tmp_path, "--step", 2, "--replica", 1))
    assert shown[0].startswith("step 2, replica 1: ")


def test_advice_is_shown_as_such(tmp_path: Path, explain: Explain) -> None:
    first, second = paragraphs(explain(write(tmp_path, history_events((1, 2), mode="advise"))))
    assert first[0].endswith("0 switches")
    assert any(line.startswith("    then: only advised; predicted: pause ") for line in first)
    assert second[1].endswith("TP8, only advised")


def test_an_interrupted_stage_and_an_incomplete_line_are_shown(tmp_path: Path, explain: Explain) -> None:
    events = history_events((1, 2))[:-3]
    path = write(tmp_path, events) / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    *_, last, cut_off = paragraphs(explain(tmp_path))
    number = sum(one["step"] == 2 for one in decisions_of(events, "question")) - 1
    assert last[0] == f"step 2, replica 0: {number} decisions, 0 switches, interrupted"
    assert cut_off == [CUT_OFF]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("nowhere",), "taper: RUN: there is no directory nowhere"),
        ((".",), "taper: RUN: . has no ledger.jsonl"),
        (("run", "--step", "9"), "taper: --step 9: the ledger has no such stage"),
        (("run", "--replica", "3"), "taper: --replica 3: the ledger has no such stage"),
    ],
    ids=str,
)
def test_bad_input_exits_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    shown: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", history_events((1,)))
    assert cli.main(["explain", *arguments]) == 2
    assert shown in capsys.readouterr().err


def test_a_corrupt_ledger_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, history_events((1,))) / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":3', b'"number":"x', 1))
    assert cli.main(["explain", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "taper: RUN: ledger.jsonl: line 4 is corrupt: " in error
    assert "Traceback" not in error
