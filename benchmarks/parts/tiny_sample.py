"""A sample for benchmarks and tests: the packaged one, with a smaller model and shorter responses."""

from __future__ import annotations

from pathlib import Path

import yaml

from taper_api import RLHFJob, load_job
from taper_rollout.job.field_overrides import set_field
from taper_rollout.sample.make import JOB_FILE, SampleSize, make_sample
from taper_rollout.sample.model import SampleShape
from taper_rollout.sample.task import Task

TINY = SampleShape(
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    intermediate_size=512,
    initializer_range=0.02,
)
SIZE = SampleSize(shape=TINY, task=Task(num_prompts=512, median_digits=16, sigma=0.6, longest_digits=60))
# Fields that differ from the packaged job.
SETTINGS = {
    "metadata.name": "sample-tiny",
    "spec.algorithm.learningRate": 5e-4,
    "spec.training.batchPrompts": 16,
    "spec.rollout.samplesPerPrompt": 8,
    "spec.rollout.responseTokens": 96,
    "spec.rollout.maxRunningRequests": 128,
    "spec.rollout.kvTokens": 16384,
}


def make_tiny_sample(directory: Path, *, seed: int = 1) -> RLHFJob:
    """Generate the sample in `directory`, as `make_sample` does. Returns its job."""
    make_sample(directory, SIZE, seed=seed)
    file = directory / JOB_FILE
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for path, value in SETTINGS.items():
        set_field(content, path, value)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_job(file)
