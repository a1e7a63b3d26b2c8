"""The error of a run that VeRL, Ray or a replica ended."""

from __future__ import annotations


class TrainingFailed(RuntimeError):
    """The run failed. The text is the first real cause, `reason` its kind as one CamelCase word."""

    def __init__(self, message: str, *, reason: str = "TrainingFailed") -> None:
        super().__init__(message)
        self.reason = reason
