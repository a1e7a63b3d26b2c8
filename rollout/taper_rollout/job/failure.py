"""What a failed run reports: its exit code, the error for the user, and the termination message for programs.

Invariant (asserted by `tests/rollout/job/test_failure.py`): every exception has a valid termination message.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Self

from taper_api import JobError
from taper_api.status.termination_message import INVALID_JOB, TerminationMessage
from taper_rollout.job.output_files import OutputError
from taper_rollout.job.training_failed import TrainingFailed

FAILED, BAD_INPUT = 1, 2
FULL_OR_READ_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
_OUTPUT = "--output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure of a command.

    text: for the user, one problem per line
    message: for programs, about the first problem
    """

    code: int
    text: str
    message: TerminationMessage

    @classmethod
    def of(
        cls,
        code: int,
        reason: str,
        text: str,
        *,
        message: str | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> Self:
        """`message`: `text` unless given."""
        about = TerminationMessage(
            reason=reason,
            message=_valid_unicode(text if message is None else message) or reason,
            field=_valid_unicode(field or "") or None,
            remedy=_valid_unicode(remedy or "") or None,
        )
        return cls(code=code, text=text, message=about)


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception means. Signals are handled by the caller."""
    if isinstance(error, JobError):
        return _invalid_job(error)
    if isinstance(error, OutputError):
        return _unwritable(str(error).removeprefix(f"{_OUTPUT}: "))
    if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
        return _unwritable(f"{error.filename or 'a file'} cannot be written: {error.strerror}")
    if isinstance(error, ModuleNotFoundError):
        return Failure.of(BAD_INPUT, "NotInstalled", f"{error}; install taper with the extra [rollout]")
    if isinstance(error, TrainingFailed):
        return Failure.of(FAILED, error.reason, str(error))
    return Failure.of(FAILED, "InternalError", f"{type(error).__name__}: {error} (-v shows where)")


def _invalid_job(error: JobError) -> Failure:
    first, *others = error.problems
    message = f"{first.message} (and {len(others)} more)" if others else first.message
    return Failure.of(
        BAD_INPUT, INVALID_JOB, str(error), message=message, field=first.path, remedy=first.remedy
    )


def _unwritable(message: str) -> Failure:
    text = f"{_OUTPUT}: {message}"
    return Failure.of(BAD_INPUT, "OutputNotWritable", text, message=message, field=_OUTPUT)


def _valid_unicode(text: str) -> str:
    """The text without lone surrogates, which file names can contain and JSON cannot."""
    return text.encode("utf-8", "replace").decode()
