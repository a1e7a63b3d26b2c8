"""Where a run keeps a job's prompts in VeRL's form. Pure."""

from __future__ import annotations

from pathlib import Path

from taper_api import RLHFJob


def train_file(output: Path) -> Path:
    """Where the job's training prompts lie in VeRL's form."""
    return output / "data" / "train.parquet"


def validation_file(job: RLHFJob, output: Path) -> Path:
    """Likewise the validation prompts. VeRL always opens a file: without one of its own, the training one."""
    return output / "data" / "validation.parquet" if job.spec.data.validation else train_file(output)
