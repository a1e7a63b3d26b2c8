"""Names of the directories that attempts save to."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.job.attempt_directory import MAX_ATTEMPTS, AttemptDirectory, attempt_directory_of


@given(st.uuids(), st.integers(min_value=1, max_value=MAX_ATTEMPTS))
def test_each_name_is_read_back(uid: uuid.UUID, number: int) -> None:
    directory = AttemptDirectory(str(uid), number)
    assert attempt_directory_of(directory.name) == directory


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "attempt-1", "attempt--0001", "attempt-a-0000", "attempt-a-00001", "attempt-a/b-0001"],
)
def test_another_name_belongs_to_no_attempt(name: str) -> None:
    assert attempt_directory_of(name) is None
