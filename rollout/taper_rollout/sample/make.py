"""Generates the sample: model, tokenizer, prompts, reward file and job, without a download."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from taper_api import RLHFJob, load_job
from taper_rollout.job.field_overrides import set_field
from taper_rollout.sample.model import CPU, TINY, Architecture, SampleShape, make_model
from taper_rollout.sample.task import Task, write_prompts

JOB_FILE = "job.yaml"
MADE_FROM_FILE = "made-from.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A size of the sample. `settings`: fields that differ from the packaged job, by path."""

    shape: SampleShape
    task: Task
    settings: Mapping[str, Any]


VARIANTS = {
    "cpu": Variant(
        shape=CPU,
        task=Task(num_prompts=512, median_digits=32, sigma=0.85, longest_digits=300),
        settings={},
    ),
    "tiny": Variant(
        shape=TINY,
        task=Task(num_prompts=512, median_digits=16, sigma=0.6, longest_digits=60),
        settings={
            "metadata.name": "sample-tiny",
            "spec.algorithm.learningRate": 5e-4,
            "spec.training.batchPrompts": 16,
            "spec.rollout.samplesPerPrompt": 8,
            "spec.rollout.responseTokens": 96,
            "spec.rollout.maxRunningRequests": 128,
            "spec.rollout.kvTokens": 16384,
        },
    ),
}


def make_sample(
    directory: Path, *, variant: str = "cpu", architecture: Architecture = "qwen3", seed: int = 1
) -> RLHFJob:
    """Generate the sample in `directory`. Returns its job.

    `seed` determines the weights and the prompts. A model and prompts of an earlier equal call are
    reused; the job file is always rewritten.
    """
    chosen = VARIANTS[variant]
    directory.mkdir(parents=True, exist_ok=True)
    source = _made_from(chosen, architecture, seed)
    marker = directory / MADE_FROM_FILE
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == source):
        marker.unlink(missing_ok=True)
        make_model(directory / "model", chosen.shape, architecture=architecture, seed=seed)
        write_prompts(directory / "train.parquet", chosen.task, seed=seed)
        # Written last, so that an interrupted call is repeated.
        marker.write_text(source, encoding="utf-8")
    package = importlib.resources.files("taper_rollout.sample")
    with importlib.resources.as_file(package / "reward.py") as reward:
        shutil.copyfile(reward, directory / "reward.py")
    text = (package / JOB_FILE).read_text(encoding="utf-8")
    (directory / JOB_FILE).write_text(_with_settings(text, chosen.settings), encoding="utf-8")
    return load_job(directory / JOB_FILE)


def _made_from(variant: Variant, architecture: Architecture, seed: int) -> str:
    """What the model and the prompts depend on, as text to compare."""
    content = {
        "version": importlib.metadata.version("taper"),
        "shape": dataclasses.asdict(variant.shape),
        "task": dataclasses.asdict(variant.task),
        "architecture": architecture,
        "seed": seed,
    }
    return json.dumps(content, indent=2) + "\n"


def _with_settings(text: str, settings: Mapping[str, Any]) -> str:
    """The job's text with fields set. Without settings it keeps its comments."""
    if not settings:
        return text
    content = yaml.safe_load(text)
    for path, value in settings.items():
        set_field(content, path, value)
    dumped: str = yaml.safe_dump(content, sort_keys=False)
    return dumped
