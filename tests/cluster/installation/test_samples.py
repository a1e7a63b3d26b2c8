"""The samples of `manifests/`, as a real API server takes them: with its rules in CEL, strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from taper_operator.manifests.kinds import RLHF_JOBS

from ..control_plane.cluster import Cluster

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
JOBS = [file for file in sorted(SAMPLES.glob("*.yaml")) if "kind: RLHFJob" in file.read_text()]


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_a_sample_applies_as_it_is(api: Cluster, file: Path) -> None:
    job = yaml.safe_load(file.read_text())
    # As kubectl would.
    job["metadata"]["namespace"] = "default"
    kept = api.dry_run.create(RLHF_JOBS, job)
    assert kept["spec"]["model"]["path"] == job["spec"]["model"]["path"]


def test_there_are_samples() -> None:
    assert len(JOBS) == 5
