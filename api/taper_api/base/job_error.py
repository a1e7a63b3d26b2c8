"""What is wrong with a job, worded so that its author can fix it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    `path` names the field as the author writes it (`spec.rollout.degrees[1]`) or, where there
    is no field, the file and line. `remedy` says what would be right.
    """

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.path}: {self.message}{remedy}"


class JobError(ValueError):
    """A job that cannot be run. `str()` has one line for each problem, in the order of the job's fields."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a JobError names at least one problem"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    @classmethod
    def at(cls, path: str, message: str, remedy: str = "") -> JobError:
        """An error with one problem."""
        return cls([Problem(path=path, message=message, remedy=remedy)])

    def __reduce__(self) -> tuple[type[JobError], tuple[tuple[Problem, ...]]]:
        """By default an exception is unpickled from its text; this one needs its problems."""
        return type(self), (self.problems,)
