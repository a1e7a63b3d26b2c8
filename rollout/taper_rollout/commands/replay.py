"""`taper replay`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  taper replay runs/first                             every decision again: they must be the same
  taper replay runs/first --set margin_seconds=0.1    which would have been others
"""
SAME, OTHER = 0, 1


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "replay",
        help="make a run's decisions again, by its settings or by others",
        description="Ask the predictor again all that a run's ledger holds. Without --set its answers must "
        "be those of the run (exit code 1 where one is not). With --set it lists those that differ; what "
        "came after each of them is as it was in the run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's output directory")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="another value of margin_seconds, margin_share or confidence; may be given many times",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")
    parser.set_defaults(execute=replay_run)


def replay_run(options: argparse.Namespace) -> int:
    """Print what is equal and what is not; the exit code. Raises `JobError` for what cannot be used."""
    from rich.console import Console

    from taper_rollout.ledger.ledger_file import CUT_OFF, read_ledger
    from taper_rollout.ledger.replayed import replayed

    ledger = read_ledger(options.run)
    found = replayed(ledger.histories, options.settings)
    lines = [*found.lines(), CUT_OFF] if ledger.is_cut_off else [*found.lines()]
    console = Console()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return SAME if options.settings or not found.differing else OTHER
