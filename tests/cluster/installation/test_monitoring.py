"""What is made for Prometheus' operator, as that defines it: its CRDs on a real API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_operator.kube.errors import BadRequest, Invalid
from taper_operator.kube.resource import KubeObject, Resource
from taper_operator.manifests.kinds import POD_MONITORS

from ...operator.job_objects import made_for, resource
from ..control_plane.cluster import Cluster
from ..control_plane.cluster_tools import NoTools, find
from ..control_plane.foreign_definitions import MONITORING

FILE = Path(__file__).parents[3] / "manifests" / "install" / "monitoring.yaml"
KINDS = {
    "ServiceMonitor": Resource(
        group=POD_MONITORS.group, version="v1", plural="servicemonitors", kind="ServiceMonitor"
    ),
    "PrometheusRule": Resource(
        group=POD_MONITORS.group, version="v1", plural="prometheusrules", kind="PrometheusRule"
    ),
    "PodMonitor": POD_MONITORS,
}


@pytest.fixture(scope="module", autouse=True)
def _definitions() -> None:
    try:
        find(MONITORING)
    except NoTools as error:
        pytest.skip(str(error))


def made() -> list[KubeObject]:
    """The chart's, and a job's."""
    charts = [obj for obj in yaml.safe_load_all(FILE.read_text()) if obj and obj["kind"] in KINDS]
    return [*charts, next(obj for kind, obj in made_for(resource()) if kind == POD_MONITORS)]


def kept(cluster: Cluster, obj: KubeObject) -> KubeObject:
    """As the API server would keep it."""
    metadata = {"name": obj["metadata"]["name"], "namespace": "default", "labels": obj["metadata"]["labels"]}
    return cluster.dry_run.create(KINDS[obj["kind"]], obj | {"metadata": metadata})


def test_all_is_tried() -> None:
    assert sorted(obj["kind"] for obj in made()) == sorted(KINDS)


@pytest.mark.parametrize("obj", made(), ids=lambda obj: obj["kind"])
def test_the_api_server_keeps_the_objects_unchanged(cluster: Cluster, obj: KubeObject) -> None:
    assert kept(cluster, obj)["spec"].items() >= obj["spec"].items()


@pytest.mark.parametrize(("field", "value"), [("intervals", "30s"), ("interval", "often")])
def test_the_check_fails_on_a_wrong_object(cluster: Cluster, field: str, value: Any) -> None:
    (monitor,) = (obj for obj in made() if obj["kind"] == "ServiceMonitor")
    monitor["spec"]["endpoints"][0][field] = value
    with pytest.raises((BadRequest, Invalid), match=field):
        kept(cluster, monitor)
