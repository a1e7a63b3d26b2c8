"""Generates the sample: model, tokenizer, prompts, reward file and job, without a download."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
from pathlib import Path

from taper_api import RLHFJob, load_job
from taper_rollout.sample.model import CPU, SampleShape, make_model
from taper_rollout.sample.task import Task, write_prompts

JOB_FILE = "job.yaml"
MADE_FROM_FILE = "made-from.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """The size of a sample: its model, and its prompts."""

    shape: SampleShape
    task: Task


CPU_SIZE = SampleSize(shape=CPU, task=Task(num_prompts=512, median_digits=32, sigma=0.85, longest_digits=300))


def make_sample(directory: Path, size: SampleSize = CPU_SIZE, *, seed: int = 1) -> RLHFJob:
    """Generate the sample in `directory`. Returns its job.

    `seed` determines the weights and the prompts. A model and prompts of an earlier equal call are
    reused; the job file is always rewritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    source = _made_from(size, seed)
    marker = directory / MADE_FROM_FILE
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == source):
        marker.unlink(missing_ok=True)
        make_model(directory / "model", size.shape, seed=seed)
        write_prompts(directory / "train.parquet", size.task, seed=seed)
        # Written last, so that an interrupted call is repeated.
        marker.write_text(source, encoding="utf-8")
    package = importlib.resources.files("taper_rollout.sample")
    for name in ("reward.py", JOB_FILE):
        (directory / name).write_bytes((package / name).read_bytes())
    return load_job(directory / JOB_FILE)


def _made_from(size: SampleSize, seed: int) -> str:
    """What the model and the prompts depend on, as text to compare."""
    content = {"version": importlib.metadata.version("taper"), **dataclasses.asdict(size), "seed": seed}
    return json.dumps(content, indent=2) + "\n"
