"""`taper run`: its arguments, the training, and the summary that it ends with."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taper_rollout.commands.jobs import RUNS, add_set_option, load_or_sample
from taper_rollout.job.signals import raise_terminated, signal_behind

if TYPE_CHECKING:
    from rich.console import Console

    from taper_api import RLHFJob
    from taper_rollout.events import Event
    from taper_rollout.report.recorder import Recorder

    ReportEvents = Callable[[Sequence[Event]], None]

EXAMPLES = """\
examples:
  taper run                                    train the packaged sample; needs no GPU
  taper run -f job.yaml --output runs/first    train your own job
  taper run -f job.yaml --dry-run              print the job's VeRL configuration and stop
  taper run -f job.yaml --set spec.training.steps=3 --set spec.rollout.mode=advise

With RAY_ADDRESS set, the job runs on that Ray cluster. Otherwise Ray is started on this machine and
stopped at the end. To continue an interrupted run, run the same command again: it resumes from the newest
complete checkpoint in its output directory.
"""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "run",
        help="train a job with VeRL",
        description="Train a job with VeRL, or the packaged sample if no job file is given.",
        epilog=EXAMPLES,
    )
    parser.add_argument("-f", "--file", type=Path, metavar="JOB", help="the job: a YAML file of kind RLHFJob")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"directory for metrics, traces, summary and plot (default: {RUNS}/NAME of the job)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the job, print its VeRL configuration and stop"
    )
    add_set_option(parser, example="spec.training.steps=3")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show all logs, and tracebacks of errors"
    )
    parser.set_defaults(execute=run)


def run(options: argparse.Namespace) -> None:
    """Train the job. Raises `JobError` for bad input, `TrainingFailed`, `OutputError`."""
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
        _ending_with_summary(recorder, console),
        ProgressDisplay(console, num_steps=training.steps, num_responses=num_responses) as display,
        _reports_to_operator(training.steps) as report,
    ):

        def on_events(events: list[Event]) -> None:
            # Ray has replaced the SIGTERM handler by one that ends the process at once.
            signal.signal(signal.SIGTERM, raise_terminated)
            recorder.record(events)
            display.show(events)
            report(events)

        run_job(job, output, on_events, verbose=verbose)


@contextmanager
def _reports_to_operator(num_steps: int) -> Iterator[ReportEvents]:
    """Report the run's events to the operator that started it, if one did. Raises `JobError`."""
    from taper_rollout.report.job_report import JobReportBuilder
    from taper_rollout.report.report_sender import ReportSender, ReportTarget

    target = ReportTarget.of(os.environ)
    if target is None:
        yield lambda events: None
        return
    builder = JobReportBuilder(attempt=target.attempt, steps=num_steps, clock=time.monotonic)
    sender = ReportSender(target, builder.report)

    def report(events: Sequence[Event]) -> None:
        builder.record(events)
        sender.changed()

    sender.start()
    try:
        yield report
    finally:
        sender.close()


@contextmanager
def _ending_with_summary(recorder: Recorder, console: Console) -> Iterator[None]:
    """Write and print the summary at the end, also after a failure or a signal.

    Raises `OutputError` where the summary of a completed run cannot be written; after a failure, the failure
    is what is raised.
    """
    from taper_rollout.job.output_files import OutputError

    outcome = "completed"
    try:
        yield
    except BaseException as error:
        outcome = "interrupted" if signal_behind(error) else "failed"
        raise
    finally:
        try:
            _print_summary(recorder, console, outcome)
        except OutputError:
            if outcome == "completed":
                raise


def _print_summary(recorder: Recorder, console: Console, outcome: str) -> None:
    from taper_rollout.report.table import advice_text, summary_table, switch_table

    summary = recorder.finish(outcome)
    for table in (switch_table(summary), summary_table(summary)):
        if table is not None:
            console.print(table)
    advice = advice_text(summary)
    if advice is not None:
        console.print(advice, highlight=False, soft_wrap=True)
    console.print(f"written to {recorder.directory}", highlight=False, soft_wrap=True)
