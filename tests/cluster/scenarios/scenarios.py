"""Scenarios: what happens to jobs and operators on the cluster, each as a function.

They wait much more than they work, so all requested scenarios run at the same time, and a test checks the
result of one. They share the cluster and the machine, but no job, no node, and no namespace of an operator of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from ..control_plane.cluster import Cluster
from ..fakes.jobs_api import JobsApi, ScriptedJobs
from .operator_process import Installation, OperatorProcess

RESULT_SECONDS = 270.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOperator:
    """The cluster and the operator that scenarios share.

    jobs: runs the jobs that are submitted to heads
    heads: runs them instead, by namespace; None where all are scripted
    installation, operator: serve these namespaces during all scenarios
    """

    cluster: Cluster
    jobs: ScriptedJobs
    heads: dict[str, JobsApi] | None
    installation: Installation
    operator: OperatorProcess
    namespaces: tuple[str, ...]


Scenario = Callable[[SharedOperator], None]
_SCENARIOS: dict[str, Scenario] = {}
_MODULES: dict[str, list[str]] = {}


def register(name: str, module: str, function: Scenario) -> None:
    """Register a scenario of a module."""
    assert name not in _SCENARIOS, name
    _SCENARIOS[name] = function
    _MODULES.setdefault(module, []).append(name)


def scenario(function: Scenario) -> Scenario:
    """Register a function as a scenario."""
    register(function.__name__, function.__module__, function)
    return function


def each_scenario_of(module: str) -> pytest.MarkDecorator:
    """A test for each scenario of a module."""
    return pytest.mark.parametrize("scenario_name", _MODULES[module])


def requested_scenarios(items: Iterable[pytest.Item]) -> list[str]:
    """The scenarios that the collected tests need."""
    names = {item.callspec.params.get("scenario_name") for item in items if hasattr(item, "callspec")}
    return [name for name in _SCENARIOS if name in names]


@contextmanager
def running_scenarios(shared: SharedOperator, names: list[str]) -> Iterator[dict[str, Future[None]]]:
    """Run the scenarios of these names at the same time."""
    with ThreadPoolExecutor(max(1, len(names))) as threads:
        yield {name: threads.submit(_SCENARIOS[name], shared) for name in names}


def wait_for_all(futures: dict[str, Future[None]]) -> None:
    """Wait until all scenarios have ended, in whatever way: each has a test of its own."""
    wait(futures.values(), RESULT_SECONDS)
