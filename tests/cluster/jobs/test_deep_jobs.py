"""Jobs that are nested deeper than Python can recurse: they are refused, and no other job waits for them."""

from __future__ import annotations

import json
from concurrent.futures import Future

from ..control_plane.cluster import wait_for
from ..control_plane.kubectl import Kubectl
from ..scenarios.job_sandbox import JobSandbox
from ..scenarios.operator_process import Installation, OperatorProcess
from ..scenarios.scenarios import RESULT_SECONDS, SharedOperator, each_scenario_of, scenario

# Beyond Python's limit of 1,000 frames, and close to the 10,000 levels that the API server accepts.
DEEP = {
    "deep-verl": ("spec.verl", 1_100),
    "deep-reward": ("spec.reward.settings", 1_100),
    "deepest": ("spec.verl", 9_900),
}


def create_deep_jobs(sandbox: JobSandbox) -> None:
    """As their author does: this side's client could not serialise them."""
    kubectl = Kubectl(sandbox.cluster.plane, sandbox.namespace)
    for name, (field, levels) in DEEP.items():
        text = json.dumps(sandbox.manifest(name, {field: {"a": "DEEP"}}))
        file = sandbox.cluster.plane.folder / f"{sandbox.namespace}-{name}.json"
        file.write_text(text.replace('"DEEP"', '{"a":' * levels + "1" + "}" * levels))
        kubectl("create", "--validate=false", "--filename", file)


def all_are_refused(sandbox: JobSandbox) -> None:
    for name, (field, _) in DEEP.items():
        wait_for(lambda name=name: sandbox.condition("Validated", name) == "False")
        (said,) = (each for each in sandbox.status(name)["conditions"] if each["type"] == "Validated")
        assert said["reason"] == "InvalidSpec"
        assert said["message"].startswith(f"{field}: is nested too deep; use at most 32 levels")
        wait_for(
            lambda name=name: sandbox.events(name) == ["InvalidSpec"],
            why=lambda name=name: sandbox.events(name),
        )
        assert not sandbox.remains(name)


def another_tenants_job_runs(sandbox: JobSandbox, name: str, operator: OperatorProcess) -> None:
    sandbox.apply(name)
    sandbox.wait_for_phase("Running", name=name)
    assert operator.is_ready(), operator.last_words()
    for kind in ("rlhfjobs.taper.dev", "pods"):
        assert f'taper_operator_unreadable_objects{{kind="{kind}"}} 0.0' in (operator.page("/metrics") or "")


@scenario
def jobs_that_are_nested_too_deep_stop_no_other_job(shared: SharedOperator) -> None:
    namespaces = shared.cluster.new_namespace("deep"), shared.cluster.new_namespace("other")
    installation = Installation(shared.cluster, namespaces)
    deep, other = (JobSandbox(shared.cluster, shared.jobs, namespace, "job") for namespace in namespaces)
    other.new_node()
    with installation.running() as operator:
        create_deep_jobs(deep)
        all_are_refused(deep)
        another_tenants_job_runs(other, "watched", operator)
    # The next replica gets the same objects in its first list.
    with installation.running() as operator:
        another_tenants_job_runs(other, "listed", operator)
        all_are_refused(deep)


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)
