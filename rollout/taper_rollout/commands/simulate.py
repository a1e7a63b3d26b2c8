"""`taper simulate`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  taper simulate                                       the published log-normal lengths on 8 H100, estimated
  taper simulate --regime uniform --profile a40-14b    where it should not help
  taper simulate --trace runs/sample --profile p.json  a run's own stages, with a measured profile
"""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "simulate",
        help="would switching help a job? needs no cluster",
        description="Simulate recorded or synthetic stages under every policy: static layouts, switch "
        "rules, the predictor, and the best plan with known lengths.",
        epilog=EXAMPLES,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--trace", type=Path, metavar="DIR", help="use the recorded stages of this run's output directory"
    )
    source.add_argument(
        "--regime", default="lognormal", help="synthetic lengths: lognormal, bimodal, siblings, uniform"
    )
    parser.add_argument(
        "--profile", default="h100-8b", help="a profile's file, or an estimated one: h100-8b, a40-14b"
    )
    for name, default, meaning in (
        ("stages", 20, "synthetic stages"),
        ("prompts", 16, "prompts per stage and replica"),
        ("samples", 8, "responses per prompt"),
        ("prompt-tokens", 200, "tokens per prompt"),
        ("max-tokens", 24576, "longest response"),
        ("seed", 1, "seed of the lengths"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")
    parser.set_defaults(execute=simulate)


def simulate(options: argparse.Namespace) -> None:
    """Simulate the stages; print the table and the answer. Raises `JobError` for bad input."""
    from rich.console import Console
    from rich.progress import Progress

    from taper_rollout.job.output_files import write_json
    from taper_rollout.report import simulation
    from taper_rollout.report.comparison_table import comparison_table

    profile = simulation.load_profile(options.profile)
    if options.trace is not None:
        title, stages = str(options.trace), simulation.read_traces(options.trace)
    else:
        names = [field.name for field in dataclasses.fields(simulation.Synthetic)]
        synthetic = simulation.Synthetic(**{name: getattr(options, name) for name in names})
        title, stages = f"{options.regime} lengths", synthetic.draw()
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("stages", total=len(stages))
        found = simulation.simulate_job(
            stages,
            profile,
            max_tokens=None if options.trace else options.max_tokens,
            on_stage=lambda done: progress.update(task, completed=done),
        )
    console.print(comparison_table(found, title=f"{len(stages)} stages of {title}\n{profile}"))
    console.print(simulation.answer(found), highlight=False, soft_wrap=True)
    if options.json is not None:
        write_json(options.json, simulation.as_json(found, title=title, profile=profile), indent=2)
        console.print(f"written to {options.json}", highlight=False, soft_wrap=True)
