"""The parser and the API server are of one mind about every RLHFJob, with all rules in CEL.

Jobs are drawn first and then sent in some threads, each over a connection that it keeps: so two thousand
take seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from taper_api import JobError, parse_job
from taper_api.crd import rlhfjob_crd
from taper_api.immutability import refused_changes
from taper_operator.api_error import BadRequest, Forbidden, Invalid
from taper_operator.kinds import RLHF_JOBS

from ..api.job_mutations import mutated_jobs
from ..api.job_specs import valid_jobs
from ..api.rule_violations import CHANGES, FULL, VIOLATIONS, broken
from .cluster import Cluster

NUM_JOBS = 1_000
NUM_THREADS = 4
SCHEMA = rlhfjob_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
Job = dict[str, Any]


def drawn(strategy: st.SearchStrategy[Any], number: int = NUM_JOBS) -> list[Any]:
    """So many examples of a strategy."""
    examples: list[Any] = []

    @settings(max_examples=number, phases=[Phase.generate], database=None)
    @given(strategy)
    def collect(example: Any) -> None:
        examples.append(example)

    collect()
    # Hypothesis tries some more than it counts.
    assert number * 9 // 10 <= len(examples)
    return examples[:number]


def parsers_verdict(job: Job) -> str:
    """What it refuses a job for, empty if it takes it."""
    try:
        parse_job(json.dumps(job), "job.yaml")
    except JobError as error:
        return str(error)
    return ""


def servers_verdict(cluster: Cluster, job: Job) -> str:
    """The same, of the API server."""
    sent = job | {"metadata": {key: value for key, value in job["metadata"].items() if value is not None}}
    sent["metadata"]["namespace"] = "default"
    try:
        cluster.api.create(RLHF_JOBS, sent, dry_run=True)
    except (Invalid, BadRequest, Forbidden) as error:
        return str(error)
    return ""


def disagreements(cluster: Cluster, jobs: Sequence[Job]) -> list[str]:
    """The jobs that one takes and the other refuses, with what was said."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        of_server = list(threads.map(lambda job: servers_verdict(cluster, job), jobs))
    of_parser = [parsers_verdict(job) for job in jobs]
    return [
        f"server: {server or 'takes it'}\nparser: {parser or 'takes it'}\n{json.dumps(job)}"
        for job, server, parser in zip(jobs, of_server, of_parser, strict=True)
        if bool(server) != bool(parser)
    ]


def test_jobs_that_are_right_are_taken_by_both(api: Cluster) -> None:
    jobs = drawn(valid_jobs())
    assert "\n\n".join(disagreements(api, jobs)[:3]) == ""
    assert [job for job in jobs if parsers_verdict(job)] == []


def test_jobs_with_one_thing_wrong_are_refused_by_both(api: Cluster) -> None:
    mutated = drawn(mutated_jobs(SCHEMA))
    jobs = [each.job for each in mutated]
    assert "\n\n".join(disagreements(api, jobs)[:3]) == ""
    assert [each for each in mutated if not parsers_verdict(each.job)] == []


@pytest.mark.parametrize("start", VIOLATIONS)
def test_the_server_tells_the_rule_that_is_broken(api: Cluster, start: str) -> None:
    assert start in servers_verdict(api, broken(VIOLATIONS[start]))


@pytest.fixture(scope="module")
def namespace(api: Cluster) -> str:
    """Where a job is kept that is active, and one that is suspended. No operator acts on them."""
    namespace = api.new_namespace()
    for name, is_suspended in (("active", False), ("suspended", True)):
        changes = {"metadata.name": name, "metadata.namespace": namespace, "spec.suspend": is_suspended}
        api.api.create(RLHF_JOBS, broken(changes))
    return namespace


@pytest.mark.parametrize("name", ["active", "suspended"])
@pytest.mark.parametrize("field", CHANGES)
def test_what_may_change_is_what_the_parser_says(api: Cluster, namespace: str, field: str, name: str) -> None:
    before = broken({"spec.suspend": name == "suspended"})
    after = broken(CHANGES[field], before)
    old, new = (parse_job(json.dumps(job), "job.yaml").spec for job in (before, after))
    try:
        changed = {"metadata": {"namespace": namespace, "name": name}, "spec": after["spec"]}
        api.api.apply(RLHF_JOBS, changed, dry_run=True)
        refused = ""
    except Invalid as error:
        refused = str(error)
    assert bool(refused) == bool(refused_changes(old, new)), refused
    assert not refused or f"spec.{field}" in refused


def test_the_job_of_all_these_is_right(api: Cluster) -> None:
    assert servers_verdict(api, FULL) == ""
