"""A program that the tests start: ended when they end, by whichever way, its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("ends_with_parent.py")
_STOP_SECONDS = 10


class ChildProcess:
    """See the module's docstring. In a session of its own: Ctrl-C is for pytest, which then stops it.

    The kernel takes the end of the thread that makes this for the end of the parent.
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        launcher = [sys.executable, "-S", "-E", str(_LAUNCHER), str(os.getpid())]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*launcher, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code. Raises TimeoutExpired."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not. A second time does nothing."""
        self._process.terminate()
        # A test may have suspended it.
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """The end of its output, for the message of a failure."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


class Remover:
    """Removes a folder when this process has ended, for when it was killed and could not do so itself."""

    def __init__(self, folder: Path) -> None:
        # The pipe closes when this process ends; the other processes that write there die with it, too.
        script = 'read -r _; sleep 1; rm -rf -- "$1"'
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """Remove it now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
