"""What a failed run reports: its exit code, the error for the user, and the termination message for programs.

Invariant (asserted by `tests/rollout/job/test_failure.py`): every exception has a valid termination message.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

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
    message, field, remedy: of the first problem
    """

    code: int
    reason: str
    text: str
    message: str
    field: str | None = None
    remedy: str | None = None

    @property
    def termination_message(self) -> TerminationMessage:
        """The message for programs."""
        return TerminationMessage(
            reason=self.reason,
            message=_valid_unicode(self.message) or self.reason,
            field=_valid_unicode(self.field or "") or None,
            remedy=_valid_unicode(self.remedy or "") or None,
        )


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception means. Signals are handled by the caller."""
    if isinstance(error, JobError):
        return _invalid_job(error)
    if isinstance(error, OutputError):
        return _unwritable(str(error).removeprefix(f"{_OUTPUT}: "))
    if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
        return _unwritable(f"{error.filename or 'a file'} cannot be written: {error.strerror}")
    if isinstance(error, ModuleNotFoundError):
        return _plain(BAD_INPUT, "NotInstalled", f"{error}; install taper with the extra [rollout]")
    if isinstance(error, TrainingFailed):
        return _plain(FAILED, error.reason, str(error))
    text = f"{type(error).__name__}: {error}"
    return _plain(FAILED, "InternalError", f"{text} (-v shows where)")


def _invalid_job(error: JobError) -> Failure:
    first, *others = error.problems
    more = f" (and {len(others)} more)" if others else ""
    return Failure(
        code=BAD_INPUT,
        reason=INVALID_JOB,
        text=str(error),
        message=f"{first.message}{more}",
        field=first.path,
        remedy=first.remedy,
    )


def _unwritable(message: str) -> Failure:
    text = f"{_OUTPUT}: {message}"
    return Failure(code=BAD_INPUT, reason="OutputNotWritable", text=text, message=message, field=_OUTPUT)


def _plain(code: int, reason: str, text: str) -> Failure:
    return Failure(code=code, reason=reason, text=text, message=text)


def _valid_unicode(text: str) -> str:
    """The text without lone surrogates, which file names can contain and JSON cannot."""
    return text.encode("utf-8", "replace").decode()
