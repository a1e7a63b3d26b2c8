"""Records what `make demo` shows on a terminal as a picture: `docs/images/demo.svg`.

Runs the real command in a pseudo-terminal, follows its cursor as a terminal would, so that progress bars are
kept in their last state, and draws the last state of all lines. Nothing is made up or left out, but for the
directory of the repository, which is shown as `~/taper`.

    python docs/record_demo.py                    # takes as long as the demo, some minutes
    python docs/record_demo.py --output x.svg -- .venv/bin/taper explain runs/demo     # any other command
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from select import select

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "demo.svg"
COMMAND = ("make", "--no-print-directory", "demo")
COLUMNS, ROWS = 100, 50
DEADLINE_SECONDS = 1800.0
ENDING_SECONDS = 60.0  # for an orderly end after Ctrl-C
_TOKEN = re.compile(
    r"\x1b\[(?P<numbers>[0-9;?]*)(?P<final>[A-Za-z])"  # control sequences: colours, cursor, erasing
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and hyperlinks, which are not drawn
    r"|(?P<move>[\r\n])"
    r"|(?P<text>[^\x1b\r\n]+)"
)
# Rich's own frame loads a font from the network.
_FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


class Screen:
    """The lines of a terminal that never scrolls, each cell with the colours that it was written in."""

    def __init__(self) -> None:
        self._lines: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def write(self, text: str) -> None:
        """Follow what a program wrote."""
        for token in _TOKEN.finditer(text):
            if token["text"] is not None:
                self._put(token["text"])
            elif token["move"] is not None:
                self._move(token["move"])
            elif token["final"] is not None:
                self._control(token["numbers"], token["final"])

    def lines(self) -> list[str]:
        """Each line with its colours as escape sequences."""
        return [_joined(line) for line in self._lines]

    def _put(self, text: str) -> None:
        line = self._lines[self._row]
        line += [(" ", "")] * (self._column - len(line))
        line[self._column : self._column + len(text)] = [(character, self._style) for character in text]
        self._column += len(text)

    def _move(self, move: str) -> None:
        self._column = 0
        if move == "\n":
            self._row += 1
            self._lines += [[]] * (self._row == len(self._lines))

    def _control(self, numbers: str, final: str) -> None:
        match final:
            case "m":
                self._style = "" if numbers in ("", "0") else f"{self._style}\x1b[{numbers}m"
            case "A":
                self._row = max(0, self._row - int(numbers or 1))
            case "K" if numbers == "2":
                self._lines[self._row] = []
            case "K":
                del self._lines[self._row][self._column :]


def _joined(cells: Sequence[tuple[str, str]]) -> str:
    text, last = "", ""
    for character, style in cells:
        text += character if style == last else f"\x1b[0m{style}{character}"
        last = style
    return text


def record(command: Sequence[str], *, deadline_seconds: float) -> str:
    """What the command writes to a terminal of `COLUMNS` columns. Raises `RuntimeError`, `TimeoutError`."""
    child, terminal = pty.fork()
    if child == 0:
        _become(command)
    with os.fdopen(terminal, "rb", buffering=0) as source:
        try:
            written = _read(source, deadline_seconds)
        except TimeoutError:
            _end(child, source)
            raise
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise RuntimeError(f"{shlex.join(command)} ended with exit code {code}")
    return written.decode(errors="replace")


def _become(command: Sequence[str]) -> None:
    """Turn this process, a child in its own terminal, into the command."""
    try:
        os.chdir(ROOT)
        fcntl.ioctl(pty.STDOUT_FILENO, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execvp(command[0], list(command))
    finally:
        os._exit(127)


def _read(source: io.RawIOBase, deadline_seconds: float) -> bytes:
    """All that is written until the program ends, shown as it comes. Raises `TimeoutError`."""
    deadline = time.monotonic() + deadline_seconds
    written = b""
    while select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            piece = source.read(65536)
        except OSError:  # how Linux reports the end of a pseudo-terminal
            return written
        written += piece or b""
        sys.stdout.buffer.write(piece or b"")
        sys.stdout.buffer.flush()
    raise TimeoutError(f"the command did not end in {deadline_seconds:.0f} s")


def _end(child: int, source: io.RawIOBase) -> None:
    """End the command and what it started as Ctrl-C does, and what is left of it for good."""
    os.killpg(child, signal.SIGINT)
    with suppress(TimeoutError):
        _read(source, ENDING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def drawn(lines: Sequence[str], *, title: str) -> str:
    """The lines as SVG. Raises `ValueError` if they name the directory of the repository."""
    if any(str(ROOT) in line for line in lines):
        raise ValueError(f"the picture would show {ROOT}")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), legacy_windows=False)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(title=title, theme=MONOKAI, code_format=_FRAME)


def main() -> None:
    """Record and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--title", default="make demo")
    parser.add_argument("--deadline-seconds", type=float, default=DEADLINE_SECONDS)
    parser.add_argument("command", nargs="*", default=list(COMMAND))
    options = parser.parse_args()
    screen = Screen()
    written = record(options.command, deadline_seconds=options.deadline_seconds)
    screen.write(written.replace(str(ROOT), "~/taper"))
    lines = [line.rstrip() for line in screen.lines()]
    while lines and not lines[-1]:
        lines.pop()
    options.output.write_text(drawn(lines, title=options.title), encoding="utf-8")
    print(f"docs: wrote {options.output}")


if __name__ == "__main__":
    main()
