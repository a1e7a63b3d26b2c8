"""Exit code, reason and termination message of each kind of error."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api import JobError, Problem
from taper_api.status.termination_message import line_of
from taper_rollout.job.failure import failure_of
from taper_rollout.job.output_files import OutputError
from taper_rollout.job.training_failed import TrainingFailed

LINES = (Path(__file__).parents[2] / "api" / "last_lines.txt").read_text(encoding="ascii").splitlines()
ERRORS: list[BaseException] = [
    TrainingFailed("the reward a.py:f failed: KeyError: 'x'"),
    JobError(
        [
            Problem(
                path="spec.rollout.degrees[1]", message="3 is not a power of two", remedy="use 1, 2, 4 or 8"
            )
        ]
    ),
    TrainingFailed("two\nlines\u2028and \xe9", reason="InternalError"),
]


@pytest.mark.parametrize(("error", "line"), list(zip(ERRORS, LINES, strict=True)))
def test_the_lines_match_those_that_the_operator_parses(error: BaseException, line: str) -> None:
    assert line_of(failure_of(error).message) == line


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (TrainingFailed("no", reason="GpusMissing"), 1, "GpusMissing"),
        (OutputError("--output: x cannot be written: full"), 2, "OutputNotWritable"),
        (OSError(errno.ENOSPC, "full", "x"), 2, "OutputNotWritable"),
        (OSError(errno.EBADF, "bad"), 1, "InternalError"),
        (ModuleNotFoundError("no verl"), 2, "NotInstalled"),
        (KeyError(), 1, "InternalError"),
    ],
)
def test_each_kind_has_its_code_and_reason(error: BaseException, code: int, reason: str) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.message.reason) == (code, reason)


@given(st.text(), st.sampled_from([TrainingFailed, OutputError, RuntimeError, ModuleNotFoundError]))
def test_every_error_has_a_termination_message(text: str, kind: type[Exception]) -> None:
    assert line_of(failure_of(kind(text)).message).startswith("TAPER_ERROR {")
