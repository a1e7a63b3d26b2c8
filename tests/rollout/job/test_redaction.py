"""What a run says at its end holds no secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.job.redaction import HIDDEN, redacted


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password"])
def test_values_of_variables_that_are_called_like_secrets_are_hidden(name: str) -> None:
    assert redacted("401 for 'hunter22'", {name: "hunter22"}) == f"401 for '{HIDDEN}'"


def test_so_are_those_that_the_job_takes_from_a_secret() -> None:
    environment = {"PLAIN": "hunter22", "HOME": "/home/me"}
    assert redacted("hunter22 in /home/me", environment, {"PLAIN"}) == f"{HIDDEN} in /home/me"


def test_so_is_the_user_of_an_address() -> None:
    assert redacted("GET https://me:pass@host/x failed", {}) == f"GET https://{HIDDEN}@host/x failed"


def test_a_short_value_is_no_secret() -> None:
    assert redacted("one of one", {"TOKEN": "one"}) == "one of one"


@given(
    st.lists(st.text(alphabet="ab1", min_size=6, max_size=9), min_size=1, max_size=4),
    st.text(alphabet="ab1 ", max_size=20),
)
def test_no_value_is_left(values: list[str], text: str) -> None:
    environment = {f"TOKEN_{index}": value for index, value in enumerate(values)}
    told = redacted(f"{text}{values[0]}{text}", environment)
    assert all(value not in told for value in values)
