"""A job that is right, to be made wrong in one place at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from taper_api import JobError, RLHFJob, parse_job

MINIMAL: dict[str, Any] = {
    "apiVersion": "taper.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"path": "some/model"},
        "data": {"train": ["train.parquet"]},
        "reward": {"function": "exact-match"},
        "training": {"steps": 3, "batchPrompts": 4, "ranks": 4},
        "rollout": {"footprint": 4, "samplesPerPrompt": 4, "responseTokens": 128},
    },
}

MISSING = object()


def changed(**changes: Any) -> dict[str, Any]:
    """The minimal job with values put at dotted paths (`__` for a dot); MISSING removes a field."""
    job = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, last = path.split("__")
        block = job
        for parent in parents:
            block = block.setdefault(parent, {})
        if value is MISSING:
            del block[last]
        else:
            block[last] = value
    return job


def parsed(**changes: Any) -> RLHFJob:
    return parse_job(json.dumps(changed(**changes)), "job.yaml")


@pytest.fixture
def job() -> Callable[..., RLHFJob]:
    return parsed


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """The lines of the JobError that a changed job raises."""

    def lines(**changes: Any) -> list[str]:
        with pytest.raises(JobError) as caught:
            parsed(**changes)
        return str(caught.value).splitlines()

    return lines


@pytest.fixture
def missing() -> object:
    return MISSING
