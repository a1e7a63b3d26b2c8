"""`taper profile`: its arguments, the measurement, its tables and files."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taper_rollout.commands.jobs import RUNS, add_set_option, load_or_sample

if TYPE_CHECKING:
    from rich.console import Console

    from taper_api import Problem
    from taper_api.job.rollout_spec import RolloutSpec
    from taper_policy.profile.profile import Profile
    from taper_rollout.profiling.grid import Grid
    from taper_rollout.profiling.replica_settings import ReplicaSettings

EXAMPLES = """\
examples:
  taper profile                        profile the packaged sample on this machine
  taper profile -f job.yaml            profile a job's model in the job's layouts
  taper profile -f job.yaml --quick    as roughly as a run does when it finds no profile
  taper profile --model path/to/model --footprint 2 --output profile.json

Takes minutes on GPUs and up to an hour on CPUs. Run nothing else on the machine meanwhile.

Without --output, the profile goes to the cache ($XDG_CACHE_HOME/taper/profiles, or ~/.cache/taper/profiles).
Later runs of the same model on the same device with the same versions find it there. To use a file named with
--output, set spec.rollout.profile in the job. A plot of the decode steps is written next to the profile.
"""
# Options that stand for fields of a job, where there is no job.
OPTIONS = {
    "spec.model.path": "--model",
    "spec.rollout.footprint": "--footprint",
    "spec.rollout.degrees": "--footprint",
    "spec.rollout.responseTokens": "--context-tokens",
    "spec.rollout.maxRunningRequests": "--max-running-requests",
}
PROGRESS_SHARE = 0.1  # between two printed lines


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "profile",
        help="measure how fast a model decodes and switches on this machine",
        description="Measure the decode steps, prefills and switches of a model in each layout.",
        epilog=EXAMPLES,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "-f", "--file", type=Path, metavar="JOB", help="a job, for its model, layouts and sizes"
    )
    source.add_argument("--model", metavar="PATH", help="a model's directory or Hugging Face id")
    add_set_option(parser, example="spec.rollout.kvTokens=8192")
    for name, default, meaning in (
        ("footprint", 2, "ranks of a replica"),
        ("context-tokens", 2048, "longest prompt plus response"),
        ("max-running-requests", 64, "largest batch of a group"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"with --model: {meaning} (default: {default})",
        )
    parser.add_argument(
        "--dtype",
        default="auto",
        help="with --model: dtype of the weights (default: auto, that of the checkpoint)",
    )
    parser.add_argument("--quick", action="store_true", help="measure a rough profile in about a minute")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write the profile to (default: in the cache)"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show all logs, and tracebacks of errors"
    )
    parser.set_defaults(execute=profile)


def profile(options: argparse.Namespace) -> None:
    """Measure, print the tables, write the profile and its plot. Raises `JobError` for bad input."""
    from rich.console import Console

    from taper_rollout.job.host import HostResources
    from taper_rollout.profiling.grid import FULL, QUICK

    if not options.verbose:
        # SGLang warns about missing accelerators, and its ranks draw progress bars.
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        os.environ.setdefault("TQDM_DISABLE", "1")
    device = HostResources.local().device
    settings = _model_settings(options, device) if options.model else _job_settings(options, device)
    file = _file(options.output, settings)
    grid = QUICK if options.quick else FULL
    _check_contexts(
        settings, grid, path="--context-tokens" if options.model else "spec.rollout.responseTokens"
    )
    console = Console()
    measured = _measured(settings, grid, console)
    _write_and_print(measured, file, console)


def _check_contexts(settings: ReplicaSettings, grid: Grid, *, path: str) -> None:
    """Check, before an engine is started, that contexts are long enough to measure. Raises `JobError`."""
    from taper_api import JobError, Problem
    from taper_rollout.profiling.grid import EngineCapacity

    capacity = EngineCapacity(
        footprint=settings.rollout.footprint,
        degrees=settings.rollout.degrees,
        max_running_requests=settings.rollout.max_running_requests or 1,
        kv_tokens=settings.rollout.kv_tokens or sys.maxsize,
        context_tokens=settings.context_tokens,
    )
    try:
        grid.contexts(capacity)
    except ValueError as error:
        raise JobError([Problem(path=path, message=str(error), remedy="allow longer contexts")]) from None


def _job_settings(options: argparse.Namespace, device: str) -> ReplicaSettings:
    from taper_rollout.job_replica import job_replica
    from taper_rollout.training import check_job

    # The profile that the job names may not exist yet: it is what this command writes.
    job = load_or_sample(options.file, [*options.settings, "spec.rollout.profile=null"])
    config = check_job(job, (RUNS / job.metadata.name).absolute())
    return job_replica(job, config, device=device)


def _model_settings(options: argparse.Namespace, device: str) -> ReplicaSettings:
    """Settings of a replica for a model without a job: every degree up to the footprint."""
    from taper_api import JobError
    from taper_rollout.job.requirements import Facts, installed_versions, model_config
    from taper_rollout.job.support_matrix import check_support
    from taper_rollout.job_replica import LOCAL_ADDRESS, local_model
    from taper_rollout.profiling.key import actual_dtype
    from taper_rollout.profiling.replica_settings import ReplicaSettings

    try:
        rollout = _model_rollout(options)
        config = model_config(options.model)
        facts = Facts(
            model=config,
            settings={},
            versions=installed_versions(),
            footprint=rollout.footprint,
            degrees=rollout.degrees,
            ranks_per_node=rollout.footprint,
        )
        check_support(facts)
        path = local_model(options.model, path="--model")
    except JobError as error:
        raise JobError([_at_option(problem) for problem in error.problems]) from None
    return ReplicaSettings(
        rollout=rollout,
        model_path=path,
        dtype=actual_dtype(config, options.dtype),
        context_tokens=options.context_tokens,
        trust_remote_code=False,
        device=device,
        replica=0,
        random_seed=0,
        host=LOCAL_ADDRESS,
    )


def _model_rollout(options: argparse.Namespace) -> RolloutSpec:
    """The rollout block that the options describe. Raises `JobError`."""
    from pydantic import ValidationError

    from taper_api import JobError
    from taper_api.base.violations import problems_of
    from taper_api.job.rollout_spec import RolloutSpec

    block = {
        "footprint": options.footprint,
        "samplesPerPrompt": 1,
        "responseTokens": options.context_tokens,
        "maxRunningRequests": options.max_running_requests,
        "mode": "off",
        "switch": {"kv": "migrate"},
    }
    try:
        return RolloutSpec.model_validate(block)
    except ValidationError as error:
        problems = problems_of(error, RolloutSpec)
    raise JobError([dataclasses.replace(p, path=f"spec.rollout.{p.path}") for p in problems])


def _at_option(problem: Problem) -> Problem:
    """The same problem, at the option that stands for the field."""
    field = problem.path.partition("[")[0]
    return dataclasses.replace(problem, path=OPTIONS.get(field, problem.path))


def _file(output: Path | None, settings: ReplicaSettings) -> Path:
    """The file to write the profile to. Raises `OutputError` if it is not writable."""
    from taper_rollout.job.output_files import writing
    from taper_rollout.profiling.store import default_directory, wanted_of

    file = output or default_directory(os.environ) / wanted_of(settings).file_name
    trial = file.with_name(f".{file.name}.trial")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            trial.touch()
        finally:
            trial.unlink(missing_ok=True)
    return file


def _measured(settings: ReplicaSettings, grid: Grid, console: Console) -> Profile:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting the engine", total=1.0)
        next_share = 0.0

        def on_progress(share: float, doing: str) -> None:
            nonlocal next_share
            bar.update(task, completed=share, description=doing)
            if not console.is_terminal and share >= next_share:
                console.print(f"{share:4.0%} {doing}", highlight=False)
                next_share = share + PROGRESS_SHARE

        return asyncio.run(_measured_on_engine(settings, grid, on_progress))


async def _measured_on_engine(settings: ReplicaSettings, grid: Grid, on_progress: Any) -> Profile:
    from taper_rollout.profiling.profiler import EngineSwitch, measure_profile
    from taper_rollout.profiling.replica_settings import engine_settings
    from taper_rollout.sglang.engine import ElasticEngine

    engine = ElasticEngine(engine_settings(settings))
    await engine.start()
    try:
        switch = EngineSwitch(engine, settings.rollout.switch.timeout_seconds)
        return await measure_profile(engine, settings, switch, grid=grid, on_progress=on_progress)
    finally:
        await engine.close()


def _write_and_print(profile: Profile, file: Path, console: Console) -> None:
    from taper_policy.profile.file import write_profile
    from taper_rollout.job.output_files import writing
    from taper_rollout.profiling.plot import plot_profile
    from taper_rollout.profiling.table import profile_tables

    plot = file.with_suffix(".png")
    with writing(file):
        write_profile(profile, file)
    with writing(plot):
        plot_profile(profile, plot)
    for table in profile_tables(profile):
        console.print(table)
    console.print(str(profile), highlight=False, soft_wrap=True)
    console.print(f"written to {file} and {plot.name}", highlight=False, soft_wrap=True)
