"""`taper explain`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  taper explain runs/first             each stage's switches, or the decision that came closest
  taper explain runs/first --step 7 -v every decision of one step
"""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "explain",
        help="explain why a run switched or did not",
        description="Explain from a run's ledger why each switch happened or did not, and its outcome.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's output directory")
    parser.add_argument("--step", type=int, metavar="N", help="only this step")
    parser.add_argument("--replica", type=int, metavar="R", help="only this replica")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show every decision; show tracebacks of errors"
    )
    parser.set_defaults(execute=explain_run)


def explain_run(options: argparse.Namespace) -> None:
    """Print the explanation. Raises `JobError` for a ledger that cannot be read or has no such stage."""
    from rich.console import Console

    from taper_api import JobError, Problem
    from taper_rollout.ledger.explanation import explain
    from taper_rollout.ledger.ledger_file import CUT_OFF, read_ledger

    ledger = read_ledger(options.run)
    console = Console()
    lines = list(
        explain(ledger.histories, step=options.step, replica=options.replica, in_full=options.verbose)
    )
    if not lines:
        names = [
            f"--{name} {value}"
            for name in ("step", "replica")
            if (value := getattr(options, name)) is not None
        ]
        problem = Problem(path=names[0] if names else "RUN", message="the ledger has no such stage")
        raise JobError([problem])
    if ledger.is_cut_off:
        lines.append(CUT_OFF)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
