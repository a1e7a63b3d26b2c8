"""The job of a command: a file with overridden fields, or the packaged sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taper_api import RLHFJob

RUNS = Path("runs")


def add_set_option(parser: argparse.ArgumentParser, *, example: str) -> None:
    """Add `--set`, whose values `load_or_sample` gets as `settings`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help=f"override a field of the job, such as {example}; can be repeated",
    )


def load_or_sample(file: Path | None, settings: Sequence[str], *, output: Path | None = None) -> RLHFJob:
    """The job in `file`, or the packaged sample, created in the output directory. Raises `JobError`."""
    from taper_rollout.job.field_overrides import load_job_with, parsed_setting

    fields = [parsed_setting(setting) for setting in settings]  # refused before the sample is made
    return load_job_with(_sample(output or RUNS / "sample") if file is None else file, fields)


def _sample(output: Path) -> Path:
    """The job file of the packaged sample, created in the output directory."""
    from taper_rollout.job.output_files import writing
    from taper_rollout.sample.make import JOB_FILE, make_sample

    directory = output / "sample"
    sys.stderr.write(f"creating the packaged sample in {directory}\n")
    with writing(directory):
        make_sample(directory)
    return directory / JOB_FILE
