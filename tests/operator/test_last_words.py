"""Why a job failed, in its own words where it had any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.last_words import last_words


def test_what_the_job_says_last_is_why() -> None:
    log = (
        'TAPER_ERROR {"message": "first"}\nnoise\nx: TAPER_ERROR {"reason": "NoGpus", "message": "late"}\nend'
    )
    assert last_words(log) == ("NoGpus", "late")


@pytest.mark.parametrize("told", ["", "{", "[]", "1", '{"message": 1}', "[" * 100_000])
def test_without_words_the_end_of_the_log_has_to_do(told: str) -> None:
    assert last_words(f"TAPER_ERROR {told}\nKeyError: 'x'").message.endswith("KeyError: 'x'")


@given(st.text() | st.text().map(lambda text: f"TAPER_ERROR {text}"))
def test_no_log_raises(log: str) -> None:
    assert len(last_words(log * 3).message) <= 2_000
