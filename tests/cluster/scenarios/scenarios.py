"""Scenarios: what happens to jobs and operators on the cluster, each told as a function.

They wait much more than they work, so all that are asked for run at a time; a test takes the result
of one. They share the cluster and the machine, but no job, no node and no namespace of an operator's own.
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
    """What scenarios share.

    jobs: who runs what is handed in to heads
    heads: who does so instead, by namespace; None where all are scripted
    installation, operator: that serve these namespaces, and live through all scenarios
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


def register(name: str, module: str, play: Scenario) -> None:
    """Have it scenario_results, as one of that module."""
    assert name not in _SCENARIOS, name
    _SCENARIOS[name] = play
    _MODULES.setdefault(module, []).append(name)


def scenario(play: Scenario) -> Scenario:
    """Have a function scenario_results."""
    register(play.__name__, play.__module__, play)
    return play


def each_scenario_of(module: str) -> pytest.MarkDecorator:
    """A test for each scenario of a module."""
    return pytest.mark.parametrize("scenario_name", _MODULES[module])


def requested_scenarios(items: Iterable[pytest.Item]) -> list[str]:
    """The scenarios that tests will ask for."""
    names = {item.callspec.params.get("scenario_name") for item in items if hasattr(item, "callspec")}
    return [name for name in _SCENARIOS if name in names]


@contextmanager
def running_scenarios(shared: SharedOperator, names: list[str]) -> Iterator[dict[str, Future[None]]]:
    """The scenarios of these names, under way."""
    with ThreadPoolExecutor(max(1, len(names))) as threads:
        yield {name: threads.submit(_SCENARIOS[name], shared) for name in names}


def wait_for_all(futures: dict[str, Future[None]]) -> None:
    """Wait until all have been scenario_results, however they ended: each has a test of its own for that."""
    wait(futures.values(), RESULT_SECONDS)
