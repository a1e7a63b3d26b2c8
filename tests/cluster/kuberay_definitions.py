"""KubeRay's CRDs: its own where they are here, else ones that say just enough for RayJobs to be kept."""

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
    """The CRDs of RayJob and RayCluster."""
    for place in PLACES:
        files = [place / f"ray.io_{plural}.yaml" for plural in _KINDS]
        if all(file.is_file() for file in files):
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            return [yaml.load(file.read_text(), Loader=loader) for file in files]
    return [_small(plural, kind) for plural, kind in _KINDS.items()]


def _small(plural: str, kind: str) -> dict[str, Any]:
    cluster = _ANY | {"properties": {"authOptions": _ANY}}
    spec = _ANY | {
        "properties": {"preRunningDeadlineSeconds": {"type": "integer"}, "rayClusterSpec": cluster}
    }
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
        "metadata": {"name": f"{plural}.ray.io"},
        "spec": {
            "group": "ray.io",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [version],
        },
    }
