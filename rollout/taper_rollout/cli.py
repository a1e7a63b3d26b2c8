"""The command `taper`: parses arguments, runs a command of `commands/`, and turns errors into exit codes.

Exit codes: 0 success, 1 a failed run (for `taper replay`: decisions that differ), 2 bad input or an output
directory that cannot be written, 130 Ctrl-C, 143 SIGTERM. `taper run` also ends a failed run with one line
of JSON for programs (`taper_api.status.termination_message`), unless stderr is a terminal. Heavy packages
are imported only after the input was checked.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from taper_rollout.commands import explain, profile, replay, run, simulate
from taper_rollout.job.signals import raise_terminated, signal_behind

if TYPE_CHECKING:
    from taper_api.status.termination_message import TerminationMessage
    from taper_rollout.job.failure import Failure

DONE, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 2, 130, 143
EXAMPLES = """\
examples:
  taper run                                train the packaged sample; needs no GPU
  taper run -f job.yaml                    train your own job
  taper profile -f job.yaml                measure the job's model on this machine
  taper simulate --trace runs/sample       would switching have helped the recorded run?
  taper explain runs/sample                why the run switched, and why it did not
  taper replay runs/sample                 decide again from the run's ledger, and compare

`taper COMMAND --help` has the options and examples of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code."""
    options = _options(sys.argv[1:] if arguments is None else list(arguments))
    _set_up_logging(verbose=options.verbose)
    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        code: int | None = options.execute(options)
        return DONE if code is None else code
    except BaseException as error:
        return _report_failure(_failure(error, verbose=options.verbose), options)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _options(arguments: list[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    except SystemExit as end:
        if end.code and arguments[:1] == ["run"]:
            from taper_api.status.termination_message import TerminationMessage

            message = f"bad arguments: taper {' '.join(arguments)}"
            _write_termination_message(TerminationMessage(reason="BadArguments", message=message))
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taper",
        description="Train with VeRL on SGLang, changing the tensor-parallel layout as responses finish.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"taper {importlib.metadata.version('taper')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in (run, profile, simulate, explain, replay):
        command.add_parser(commands)
    for each in commands.choices.values():
        each.formatter_class = argparse.RawDescriptionHelpFormatter  # examples keep their lines
    return parser


def _failure(error: BaseException, *, verbose: bool) -> Failure:
    """What an error means for the user."""
    from taper_rollout.job.failure import Failure, failure_of

    match signal_behind(error):
        case signal.SIGINT:
            return Failure.of(INTERRUPTED, "Interrupted", "interrupted", message="ended by SIGINT")
        case signal.SIGTERM:
            return Failure.of(TERMINATED, "Terminated", "terminated", message="ended by SIGTERM")
    if verbose:
        logging.getLogger(__name__).error("the run ended", exc_info=error)
    return failure_of(error)


def _report_failure(failure: Failure, options: argparse.Namespace) -> int:
    """Print the failure on stderr, as the last thing that the command prints. Returns the exit code."""
    from taper_rollout.job.redaction import redacted

    secrets = getattr(options, "secret_variables", ())
    for line in redacted(failure.text, os.environ, secrets).splitlines():
        sys.stderr.write(f"taper: {line}\n")
    if options.command == "run":
        text = redacted(failure.message.message, os.environ, secrets)
        _write_termination_message(failure.message.model_copy(update={"message": text}))
    return failure.code


def _write_termination_message(message: TerminationMessage) -> None:
    """Write the line for programs, unless stderr is a terminal: a person has read the error already."""
    from taper_api.status.termination_message import line_of

    # Ray writes stdout and stderr to one log: buffered stdout must come before this line.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    if not sys.stderr.isatty():
        sys.stderr.write(f"{line_of(message)}\n")
        sys.stderr.flush()


def _set_up_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
