"""The job as an attempt runs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given

from taper_api import parse_job
from taper_operator.manifests.attempt_job import attempt_job, checkpoint_directory, job_text

from ...api.job_specs import Fields, valid_jobs
from ..job_objects import as_served, parsed, resource


@given(valid_jobs())
def test_the_text_is_parsed_as_the_same_job(content: Fields) -> None:
    job, identity = parsed(as_served(content))
    attempt = attempt_job(job, identity, 2)
    assert parse_job(job_text(attempt), "job.yaml") == attempt


@pytest.mark.parametrize(
    "text", ["1e3", "0o7", "off", "null", "~", "2024-01-01", "a: b", "# a", "\u2028", "\U0001f600"]
)
def test_a_text_is_a_text_to_every_yaml_reader(text: str) -> None:
    job, _ = parsed(resource({"spec.model": {"path": text}}))
    written = job_text(job)
    assert parse_job(written, "job.yaml").spec.model.path == text
    assert yaml.safe_load(written)["spec"]["model"]["path"] == text


@given(valid_jobs())
def test_no_two_attempts_save_to_one_directory(content: Fields) -> None:
    job, identity = parsed(as_served(content))
    namesake = replace(identity, uid="another")
    places = [
        checkpoint_directory(job, identity, 1),
        checkpoint_directory(job, identity, 2),
        checkpoint_directory(job, namesake, 1),
    ]
    assert len(set(places)) == 3
    assert len({place.rpartition("/")[0] for place in places}) == 1


@pytest.mark.parametrize(
    ("directory", "volumes", "shared"),
    [
        (None, {"checkpoints": {"claimName": "a"}}, "/mnt/checkpoints/full"),
        ("mine", {"checkpoints": {"claimName": "a"}}, "/mnt/checkpoints/mine"),
        ("/mnt/data/x", {}, "/mnt/data/x"),
        (None, {}, "/var/lib/taper/checkpoints/full"),
    ],
)
def test_the_checkpoint_directory(directory: str | None, volumes: dict[str, Any], shared: str) -> None:
    training = {**resource()["spec"]["training"], "checkpoints": {"directory": directory}}
    job, identity = parsed(resource({"spec.training": training, "spec.volumes": volumes}))
    assert checkpoint_directory(job, identity, 1) == f"{shared}/attempt-{identity.uid}-0001"


def test_prometheus_reaches_the_replicas() -> None:
    job, identity = parsed(resource())
    metrics = attempt_job(job, identity, 1).spec.rollout.metrics
    assert (metrics.host, metrics.port) == ("node", 8090)


def test_the_port_of_the_metrics_is_no_status_servers() -> None:
    rollout = {**resource()["spec"]["rollout"], "port": 8090}
    job, identity = parsed(resource({"spec.rollout": rollout}))
    assert attempt_job(job, identity, 1).spec.rollout.metrics.port == 18090
