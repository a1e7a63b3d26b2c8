"""Paths of a job's prompts, converted for VeRL, in the output directory. Pure."""

from __future__ import annotations

from pathlib import Path

from taper_api import RLHFJob


def train_file(output: Path) -> Path:
    """The training prompts."""
    return output / "data" / "train.parquet"


def validation_file(job: RLHFJob, output: Path) -> Path:
    """The validation prompts. VeRL always opens this file: without validation it is the training one."""
    return output / "data" / "validation.parquet" if job.spec.data.validation else train_file(output)
