"""Which KubeRay is new enough."""

from __future__ import annotations

from typing import Any

import pytest

from taper_operator.observation.kuberay_support import kuberay_of


def definition(*fields: str, version: str = "v1", served: bool = True) -> dict[str, Any]:
    spec: dict[str, Any] = {"rayClusterSpec": {"properties": {}}}
    for field in fields:
        (spec["rayClusterSpec"]["properties"] if field == "authOptions" else spec)[field] = {"type": "object"}
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": spec}}}}
    return {"spec": {"versions": [{"name": version, "served": served, "schema": schema}]}}


NEW = ("preRunningDeadlineSeconds", "authOptions")


def test_a_crd_with_all_fields_is_served() -> None:
    assert kuberay_of(definition(*NEW)) == "served"


@pytest.mark.parametrize(
    "old",
    [
        definition("authOptions"),
        definition("preRunningDeadlineSeconds"),
        definition(*NEW, version="v1alpha1"),
        definition(*NEW, served=False),
        {},
    ],
)
def test_a_crd_without_a_field_is_too_old(old: dict[str, Any]) -> None:
    assert kuberay_of(old) == "too_old"
