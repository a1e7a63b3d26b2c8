"""The one line that a run which failed ends with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.status.termination_message import (
    MARK,
    MAX_LINE_CHARACTERS,
    MAX_MESSAGE_CHARACTERS,
    TerminationMessage,
    line_of,
    termination_message_in,
)

from .failure_lines import LINES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(("line", "words"), LINES.items())
def test_writer_and_reader_agree_on_recorded_lines(line: str, words: TerminationMessage) -> None:
    assert line_of(words) == line
    assert termination_message_in(f"before\n{line}\nafter") == words


@given(message=TEXTS.filter(bool), reason=TEXTS.map(lambda text: text[:128]), field=TEXTS, remedy=TEXTS)
def test_each_line_is_read_back(message: str, reason: str, field: str, remedy: str) -> None:
    words = TerminationMessage(reason=reason, message=message, field=field or None, remedy=remedy or None)
    line = line_of(words)
    assert line.isascii()
    assert line.splitlines() == [line]
    assert termination_message_in(f"x\n{line}") == words


@pytest.mark.parametrize("character", ["a", "\n", "\xe9", "\U0001f600"])
def test_a_long_message_is_cut(character: str) -> None:
    words = TerminationMessage(
        reason="r" * 128, message=character * 10_000, field=character * 9_000, remedy=character * 9_000
    )
    line = line_of(words)
    assert len(line) <= MAX_LINE_CHARACTERS
    found = termination_message_in(line)
    assert found is not None
    assert words.message.startswith(found.message)
    assert 200 <= len(found.message) <= MAX_MESSAGE_CHARACTERS


def test_the_last_valid_line_counts() -> None:
    log = f'{MARK}{{"message": "first"}}\n{MARK}{{"message": "late", "new": 1}}\n{MARK}{{"message": 1}}\nend'
    assert termination_message_in(log) == TerminationMessage(message="late")


@given(st.text() | st.text().map(lambda text: MARK + text))
def test_no_log_raises(log: str) -> None:
    termination_message_in(log)
