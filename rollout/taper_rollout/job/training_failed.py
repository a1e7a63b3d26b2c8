"""The one error of a run that VeRL, Ray or a replica ended."""

from __future__ import annotations


class TrainingFailed(RuntimeError):
    """A run that did not end well; the text is the first real cause, `reason` the kind of it in one word."""

    def __init__(self, message: str, *, reason: str = "TrainingFailed") -> None:
        super().__init__(message)
        self.reason = reason
