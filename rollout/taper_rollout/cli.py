"""The command `taper`.

Exit codes: 0 for a run that was finished, 1 for one that failed (or decisions that are others when they
are replayed), 2 for bad input (also an output directory that cannot be written to), 130 for Ctrl-C, 143
for SIGTERM. A `taper run` that ends badly says why once more, for programs, in its last line
(`taper_api.status.termination_message`), but on a terminal. Heavy packages are imported only once the input
is known to be good.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taper_rollout.commands import explain, profile, replay, simulate
from taper_rollout.commands.jobs import RUNS, load_or_sample

if TYPE_CHECKING:
    from taper_api import RLHFJob
    from taper_api.status.termination_message import TerminationMessage
    from taper_rollout.job.failure import Failure

DONE, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 2, 130, 143
EXAMPLES = """\
examples:
  taper run                                    train the packaged sample; no GPU is needed
  taper run -f job.yaml --output runs/first    train a job of your own
  taper run -f job.yaml --dry-run              print the VeRL configuration that it becomes
  taper run --set spec.training.steps=3        change single fields

With RAY_ADDRESS set, the job runs on that Ray cluster; else Ray is started here and ended again.
Started again after it was killed, a job goes on from its newest checkpoint in its output directory.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    options = _options(sys.argv[1:] if arguments is None else list(arguments))
    _set_up_logging(verbose=options.verbose)
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code: int | None = options.execute(options)
        return DONE if code is None else code
    except BaseException as error:
        return _end(_failure(error, verbose=options.verbose), options)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _options(arguments: list[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    except SystemExit as end:
        if end.code and arguments[:1] == ["run"]:
            from taper_api.status.termination_message import TerminationMessage

            _say_last(
                TerminationMessage(
                    reason="BadArguments", message=f"taper {' '.join(arguments)} is no command"
                )
            )
        raise


class _Terminated(BaseException):
    """SIGTERM arrived. Not an `Exception`: nobody on the way may take it for a fault of their own."""


def _on_sigterm(number: int, frame: object) -> None:
    raise _Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taper",
        description="Train with VeRL on SGLang, changing the tensor-parallel layout as responses taper off.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"taper {importlib.metadata.version('taper')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser(
        "run",
        help="train a job",
        description="Train a job; without -f, the packaged sample.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("-f", "--file", type=Path, metavar="JOB", help="the job, a YAML file of kind RLHFJob")
    run.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"directory for metrics, traces, summary and plot (default: {RUNS}/NAME)",
    )
    run.add_argument("--dry-run", action="store_true", help="print the VeRL configuration and stop")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="set a field of the job, like spec.training.steps=3; may be given many times",
    )
    run.add_argument("-v", "--verbose", action="store_true", help="show all logs, and tracebacks of errors")
    run.set_defaults(execute=_run)
    profile.add_parser(commands)
    simulate.add_parser(commands)
    explain.add_parser(commands)
    replay.add_parser(commands)
    return parser


def _run(options: argparse.Namespace) -> None:
    from taper_rollout.training import check_job

    job = load_or_sample(options.file, options.settings, output=options.output)
    options.secret_variables = {variable.name for variable in job.spec.env if variable.secret is not None}
    output = (options.output or RUNS / job.metadata.name).absolute()
    config = check_job(job, output)  # before anything is written to the output directory
    if options.dry_run:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(config))
        return
    _train(job, output, verbose=options.verbose)


def _train(job: RLHFJob, output: Path, *, verbose: bool) -> None:
    from rich.console import Console

    from taper_rollout.report.progress import ProgressDisplay
    from taper_rollout.report.recorder import Recorder
    from taper_rollout.training import run_job

    console = Console()
    recorder = Recorder(output)
    training = job.spec.training
    num_responses = training.batch_prompts * job.spec.rollout.samples_per_prompt
    with (
        _summarised(recorder, console),
        ProgressDisplay(console, num_steps=training.steps, num_responses=num_responses) as display,
        _reported(training.steps) as report,
    ):

        def on_events(events: list[dict[str, Any]]) -> None:
            # Ray has put a handler in place by now that ends the process on the spot.
            signal.signal(signal.SIGTERM, _on_sigterm)
            recorder.record(events)
            display.show(events)
            report(events)

        run_job(job, output, on_events, verbose=verbose)


@contextmanager
def _reported(num_steps: int) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Reports a run's events to the operator whose attempt it is; elsewhere to nobody. Raises `JobError`."""
    from taper_rollout.report.job_report import JobReportBuilder
    from taper_rollout.report.report_sender import ReportSender, ReportTarget

    target = ReportTarget.of(os.environ)
    if target is None:
        yield lambda events: None
        return
    builder = JobReportBuilder(attempt=target.attempt, steps=num_steps, clock=time.monotonic)
    sender = ReportSender(target, builder.snapshot)

    def report(events: list[dict[str, Any]]) -> None:
        builder.record(events)
        sender.changed()

    sender.start()
    try:
        yield report
    finally:
        sender.close()


@contextmanager
def _summarised(recorder: Any, console: Any) -> Iterator[None]:
    """Ends a run with its summary, however it ends. An output that cannot be written to ends it without."""
    from taper_rollout.job.output_files import OutputError

    outcome = "completed"
    try:
        yield
    except BaseException as error:
        outcome = "interrupted" if _signal_behind(error) else "failed"
        raise
    finally:
        try:
            _show_summary(recorder, console, outcome)
        except OutputError:
            if outcome == "completed":
                raise


def _show_summary(recorder: Any, console: Any, outcome: str) -> None:
    from taper_rollout.report.table import advice_text, summary_table, switch_table

    summary = recorder.finish(outcome)
    for table in (switch_table(summary), summary_table(summary)):
        if table is not None:
            console.print(table)
    advice = advice_text(summary)
    if advice is not None:
        console.print(advice, highlight=False, soft_wrap=True)
    console.print(f"written to {recorder.directory}", highlight=False, soft_wrap=True)


def _signal_behind(error: BaseException) -> signal.Signals | None:
    """The signal that ended the run, if one did.

    What a handler raises inside one of Ray's compiled functions arrives as the cause of a
    `SystemError`. A handler of Ray's exits on SIGTERM.
    """
    following: BaseException | None = error
    while following is not None:
        if isinstance(following, KeyboardInterrupt):
            return signal.SIGINT
        if isinstance(following, _Terminated | SystemExit):
            return signal.SIGTERM
        following = following.__cause__ or following.__context__
    return None


def _failure(error: BaseException, *, verbose: bool) -> Failure:
    """What an error means for the user."""
    from taper_rollout.job.failure import Failure, failure_of

    match _signal_behind(error):
        case signal.SIGINT:
            return Failure(
                code=INTERRUPTED, reason="Interrupted", text="interrupted", message="ended by SIGINT"
            )
        case signal.SIGTERM:
            return Failure(
                code=TERMINATED, reason="Terminated", text="terminated", message="ended by SIGTERM"
            )
    if verbose:
        logging.getLogger(__name__).error("the run ended", exc_info=error)
    return failure_of(error)


def _end(failure: Failure, options: argparse.Namespace) -> int:
    """Say what went wrong on standard error, and nothing after that; the exit code."""
    from taper_rollout.job.redaction import redacted

    secrets = getattr(options, "secret_variables", ())
    for line in redacted(failure.text, os.environ, secrets).splitlines():
        sys.stderr.write(f"taper: {line}\n")
    if options.command == "run":
        words = failure.words
        message = redacted(words.message, os.environ, secrets)
        _say_last(words.model_copy(update={"message": message}))
    return failure.code


def _say_last(words: TerminationMessage) -> None:
    """Last words for programs; on a terminal people have read it all already."""
    from taper_api.status.termination_message import line_of

    # Ray's log has both streams: what waits in the other one would come after this.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    if not sys.stderr.isatty():
        sys.stderr.write(f"{line_of(words)}\n")
        sys.stderr.flush()


def _set_up_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
