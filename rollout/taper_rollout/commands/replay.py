"""`taper replay`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  taper replay runs/first                             repeat every decision: all must be equal
  taper replay runs/first --set margin_seconds=0.1    list the decisions that would differ
"""
SAME, DIFFERENT = 0, 1


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "replay",
        help="repeat a run's decisions, with its settings or others",
        description="Repeat every decision of a run's ledger. Without --set they must equal those of the run "
        "(exit code 1 if one does not). With --set, list those that differ; each is made in the situation "
        "that was recorded.",
        epilog=EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's output directory")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="set margin_seconds, margin_share or confidence; repeatable",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")
    parser.set_defaults(execute=replay_run)


def replay_run(options: argparse.Namespace) -> int:
    """Print what differs, and return the exit code. Raises `JobError` for bad input."""
    from taper_rollout.ledger.ledger_file import CUT_OFF, read_ledger
    from taper_rollout.ledger.replayed import replayed

    ledger = read_ledger(options.run)
    found = replayed(ledger.histories, options.settings)
    lines = [*found.lines(), CUT_OFF] if ledger.is_cut_off else found.lines()
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return SAME if options.settings or not found.differing else DIFFERENT
