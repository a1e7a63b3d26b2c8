"""The parser and the API server agree about every RLHFJob, with all rules in CEL.

Jobs are sent while others are drawn, in some threads, each over a connection that it keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from taper_api import JobError, parse_job
from taper_api.rules.immutability import CHANGES_WHILE_SUSPENDED, NEVER_CHANGES
from taper_api.schema.crd import rlhfjob_crd
from taper_operator.kube.errors import BadRequest, Forbidden, Invalid
from taper_operator.manifests.kinds import RLHF_JOBS

from ...api.job_mutations import mutated_jobs
from ...api.job_specs import valid_jobs
from ...api.rule_violations import CHANGES, FULL, VIOLATIONS, broken
from ..control_plane.cluster import Cluster

NUM_JOBS = 1_000
NUM_THREADS = 4
SCHEMA = rlhfjob_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
Job = dict[str, Any]
T = TypeVar("T")


class Judged(NamedTuple):
    """A drawn example, and why each refuses its job: empty if it accepts it."""

    example: Any
    parser: str
    server: str


def drawn(strategy: st.SearchStrategy[T], use: Callable[[T], None], number: int = NUM_JOBS) -> None:
    """Pass `number` examples of a strategy to `use`, or a few more."""
    num_drawn = 0

    @settings(max_examples=number, phases=[Phase.generate], database=None)
    @given(strategy)
    def draw(example: T) -> None:
        nonlocal num_drawn
        num_drawn += 1
        use(example)

    while num_drawn < number:
        draw()


def parsers_verdict(job: Job) -> str:
    """Why the parser refuses a job; empty if it accepts it."""
    try:
        parse_job(json.dumps(job), "job.yaml")
    except JobError as error:
        return str(error)
    return ""


def servers_verdict(cluster: Cluster, job: Job) -> str:
    """Why the API server refuses a job; empty if it accepts it."""
    sent = job | {"metadata": {key: value for key, value in job["metadata"].items() if value is not None}}
    sent["metadata"]["namespace"] = "default"
    try:
        cluster.dry_run.create(RLHF_JOBS, sent)
    except (Invalid, BadRequest, Forbidden) as error:
        return str(error)
    return ""


def judged(cluster: Cluster, strategy: st.SearchStrategy[T], job_of: Callable[[T], Job]) -> list[Judged]:
    """Examples of a strategy. While some are drawn, the server has the jobs of those before them."""
    under_way: list[tuple[T, str, Future[str]]] = []
    with ThreadPoolExecutor(NUM_THREADS) as threads:

        def judge(example: T) -> None:
            job = job_of(example)
            of_server = threads.submit(servers_verdict, cluster, job)
            under_way.append((example, parsers_verdict(job), of_server))

        drawn(strategy, judge)
    return [Judged(example, parser, server.result()) for example, parser, server in under_way[:NUM_JOBS]]


def disagreements(found: Sequence[Judged]) -> list[str]:
    """Examples that one accepts and the other refuses, with the reasons."""
    return [
        f"server: {each.server or 'accepts it'}\nparser: {each.parser or 'accepts it'}\n{each.example}"
        for each in found
        if bool(each.server) != bool(each.parser)
    ]


def test_parser_and_server_accept_valid_jobs(api: Cluster) -> None:
    found = judged(api, valid_jobs(), lambda job: job)
    assert len(found) == NUM_JOBS
    assert "\n\n".join(disagreements(found)[:3]) == ""
    assert [each.example for each in found if each.parser] == []


def test_parser_and_server_refuse_one_wrong_field(api: Cluster) -> None:
    found = judged(api, mutated_jobs(SCHEMA), lambda mutated: mutated.job)
    assert len(found) == NUM_JOBS
    assert "\n\n".join(disagreements(found)[:3]) == ""
    assert [each.example for each in found if not each.parser] == []


@pytest.mark.parametrize("start", VIOLATIONS)
def test_the_server_names_the_broken_rule(api: Cluster, start: str) -> None:
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
def test_the_server_refuses_changes_of_these_fields(
    api: Cluster, namespace: str, field: str, name: str
) -> None:
    after = broken(CHANGES[field], broken({"spec.suspend": name == "suspended"}))
    try:
        changed = {"metadata": {"namespace": namespace, "name": name}, "spec": after["spec"]}
        api.dry_run.apply(RLHF_JOBS, changed)
        refused = ""
    except Invalid as error:
        refused = str(error)
    fixed = NEVER_CHANGES if name == "suspended" else (*NEVER_CHANGES, *CHANGES_WHILE_SUSPENDED)
    assert bool(refused) == (field in fixed), refused
    assert not refused or f"spec.{field}" in refused


def test_the_server_accepts_the_unbroken_job(api: Cluster) -> None:
    assert servers_verdict(api, FULL) == ""
