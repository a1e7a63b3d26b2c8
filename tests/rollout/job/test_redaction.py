"""Errors of a run contain no secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.job.redaction import HIDDEN, redacted


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password"])
def test_values_of_variables_with_secret_names_are_hidden(name: str) -> None:
    assert redacted("401 for 'hunter22'", {name: "hunter22"}) == f"401 for '{HIDDEN}'"


def test_values_that_the_job_takes_from_a_secret_are_hidden() -> None:
    environment = {"PLAIN": "hunter22", "HOME": "/home/me"}
    assert redacted("hunter22 in /home/me", environment, {"PLAIN"}) == f"{HIDDEN} in /home/me"


def test_the_user_part_of_a_url_is_hidden() -> None:
    assert redacted("GET https://me:pass@host/x failed", {}) == f"GET https://{HIDDEN}@host/x failed"


def test_short_values_are_kept() -> None:
    assert redacted("one of one", {"TOKEN": "one"}) == "one of one"


@given(
    st.lists(st.text(alphabet="ab1", min_size=6, max_size=9), min_size=1, max_size=4),
    st.text(alphabet="ab1 ", max_size=20),
)
def test_no_value_is_left(values: list[str], text: str) -> None:
    environment = {f"TOKEN_{index}": value for index, value in enumerate(values)}
    text_without = redacted(f"{text}{values[0]}{text}", environment)
    assert all(value not in text_without for value in values)
