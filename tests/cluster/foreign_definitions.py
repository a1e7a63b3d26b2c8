"""CRDs of others: KubeRay's own where they are here, else ones that say just enough for RayJobs to be kept;
of Prometheus' operator one of that sort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
PLACES = [
    Path(os.environ.get("TAPER_KUBERAY_CRDS", REPOSITORY / "no-such-place")),
    REPOSITORY / "shared" / "data" / "kuberay",
    REPOSITORY.parent / "shared" / "data" / "kuberay",
]
_KINDS = {"rayjobs": "RayJob", "rayclusters": "RayCluster"}
_ANY: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definitions() -> list[dict[str, Any]]:
    """The CRDs of RayJob, RayCluster and PodMonitor, and of what KubeRay does not start without."""
    return [
        *_kuberay(),
        _definition("ray.io", "rayservices", "RayService", _ANY),
        _definition("monitoring.coreos.com", "podmonitors", "PodMonitor", _ANY),
    ]


def _kuberay() -> list[dict[str, Any]]:
    for place in PLACES:
        files = [place / f"ray.io_{plural}.yaml" for plural in _KINDS]
        if all(file.is_file() for file in files):
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            return [yaml.load(file.read_text(), Loader=loader) for file in files]
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
