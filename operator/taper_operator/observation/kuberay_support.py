"""Whether the cluster's KubeRay accepts the RayJobs that the operator creates, by its CRD.

Invariant (asserted by `tests/operator/observation/test_kuberay_support.py`): a CRD without one of the fields
that the operator sets, or without version v1, is too old.
"""

from __future__ import annotations

from typing import Final

from taper_operator.kube.json_field import field_at, mappings_at
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import RAY_JOBS
from taper_operator.observation.observation import KubeRay

NAME: Final = f"{RAY_JOBS.plural}.{RAY_JOBS.group}"
_SCHEMA = ("schema", "openAPIV3Schema", "properties", "spec", "properties")
# The newest fields that the operator sets: authOptions in 1.5, preRunningDeadlineSeconds in 1.7.
_FIELDS: Final = (("preRunningDeadlineSeconds",), ("rayClusterSpec", "properties", "authOptions"))


def kuberay_of(definition: KubeObject) -> KubeRay:
    """KubeRay's state by its CRD of RayJob."""
    for version in mappings_at(definition, "spec", "versions"):
        if version.get("name") == RAY_JOBS.version and version.get("served") is True:
            has_all = all(field_at(version, *_SCHEMA, *field) is not None for field in _FIELDS)
            return "served" if has_all else "too_old"
    return "too_old"
