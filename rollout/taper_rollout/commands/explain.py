"""`taper explain`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
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
    from taper_api import JobError, Problem
    from taper_rollout.ledger.explanation import explain
    from taper_rollout.ledger.ledger_file import CUT_OFF, read_ledger

    ledger = read_ledger(options.run)
    chosen = {"step": options.step, "replica": options.replica}
    lines = list(explain(ledger.histories, **chosen, in_full=options.verbose))
    if not lines:
        path = next((f"--{name} {value}" for name, value in chosen.items() if value is not None), "RUN")
        raise JobError([Problem(path=path, message="the ledger has no such stage")])
    if ledger.is_cut_off:
        lines.append(CUT_OFF)
    sys.stdout.writelines(f"{line}\n" for line in lines)
