"""The signals that end a run: SIGINT (Ctrl-C) and SIGTERM.

Both are raised as exceptions that are no `Exception`, so that no code on the way handles them as an
error of its own. Ray complicates this: it installs a SIGTERM handler that exits, and what a handler
raises inside one of Ray's compiled functions arrives as the cause of a `SystemError`. So the whole chain
of causes is searched.
"""

from __future__ import annotations

import signal


class Terminated(BaseException):
    """SIGTERM arrived."""


def raise_terminated(number: int, frame: object) -> None:
    """Signal handler for SIGTERM. Raises `Terminated`."""
    raise Terminated


def signal_behind(error: BaseException) -> signal.Signals | None:
    """The signal that ended the run, None where no signal did."""
    following: BaseException | None = error
    while following is not None:
        if isinstance(following, KeyboardInterrupt):
            return signal.SIGINT
        if isinstance(following, Terminated | SystemExit):
            return signal.SIGTERM
        following = following.__cause__ or following.__context__
    return None
