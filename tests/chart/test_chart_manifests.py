"""The manifests without helm are the rendered chart."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
import yaml

from .chart import CHART, NAMESPACE, Values, helm_program, objects


@pytest.mark.parametrize("path", ["all-namespaces", "one-namespace", "monitoring"])
def test_the_manifests_without_helm_are_the_rendered_chart(path: str, rendered: dict[str, str]) -> None:
    file = CHART.parents[1] / "manifests" / "install" / f"{path}.yaml"
    assert file.read_text() == rendered[file.name], f"{path} is stale; run: make manifests"


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    render = runpy.run_path(str(CHART.parent / "render.py"))
    return {file.name: content for file, content in render["files"](helm_program()).items()}


@pytest.mark.parametrize(
    ("name", "values"), [("all-namespaces", {"watchNamespaces": ["*"]}), ("one-namespace", {})]
)
def test_without_helm_the_same_objects_are_created(
    name: str, values: Values, rendered: dict[str, str]
) -> None:
    made = list(yaml.safe_load_all(rendered[f"{name}.yaml"]))
    namespace, *others = made
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", NAMESPACE)
    less = {"dashboards": {"create": False}, "reports": {"secretName": "taper-reports"}}
    by_helm = objects(values | less, has_monitoring=False)
    assert sorted(_name(obj) for obj in others) == sorted(_name(obj) for obj in by_helm)
    assert all("Helm" not in obj["metadata"]["labels"].values() for obj in others)


def _name(obj: dict[str, Any]) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]
