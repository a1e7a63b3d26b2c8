"""CRDs of others: KubeRay's and those of Prometheus' operator where they are available, else minimal ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from .cluster_tools import MONITORING, NoTools, find

REPOSITORY = Path(__file__).parents[3]
PLACES = [
    Path(os.environ.get("TAPER_KUBERAY_CRDS", REPOSITORY / "no-such-place")),
    REPOSITORY / "shared" / "data" / "kuberay",
    REPOSITORY.parent / "shared" / "data" / "kuberay",
]
_KINDS = {"rayjobs": "RayJob", "rayclusters": "RayCluster"}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ANY: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definitions() -> list[dict[str, Any]]:
    """The CRDs of KubeRay and of Prometheus' operator, and of what KubeRay does not start without."""
    rayservices = _definition("ray.io", "rayservices", "RayService", _ANY)
    return [*_kuberay(), rayservices, *(monitoring_definitions() or _any_monitoring())]


def monitoring_definitions() -> list[dict[str, Any]]:
    """PodMonitor, PrometheusRule, ServiceMonitor as Prometheus' operator has them; none without its files."""
    try:
        text = find(MONITORING).read_text()
    except NoTools:
        return []
    return list(yaml.load_all(text, Loader=_LOADER))


def _any_monitoring() -> list[dict[str, Any]]:
    kinds = {
        "podmonitors": "PodMonitor",
        "prometheusrules": "PrometheusRule",
        "servicemonitors": "ServiceMonitor",
    }
    return [_definition("monitoring.coreos.com", plural, kind, _ANY) for plural, kind in kinds.items()]


def _kuberay() -> list[dict[str, Any]]:
    for place in PLACES:
        files = [place / f"ray.io_{plural}.yaml" for plural in _KINDS]
        if all(file.is_file() for file in files):
            return [yaml.load(file.read_text(), Loader=_LOADER) for file in files]
    cluster = _ANY | {"properties": {"authOptions": _ANY}}
    spec = _ANY | {
        "properties": {"preRunningDeadlineSeconds": {"type": "integer"}, "rayClusterSpec": cluster}
    }
    return [_definition("ray.io", plural, kind, spec) for plural, kind in _KINDS.items()]


def _definition(group: str, plural: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": _ANY}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [version],
        },
    }
