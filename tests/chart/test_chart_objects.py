"""Which objects the chart makes, by the values."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from .chart import CHART, MONITORING, NAMESPACE, RELEASE, Values, helm, objects, of_kind, template
from .chart_variants import SCOPES, VARIANTS
from .kubernetes_types import problems_of

ALWAYS = [
    "ClusterRole taper-taper-system-cluster",
    "ClusterRole taper-taper-system-editor",
    "ClusterRole taper-taper-system-viewer",
    "ClusterRoleBinding taper-taper-system-cluster",
    "ConfigMap taper-dashboards",
    "Deployment taper",
    "NetworkPolicy taper",
    "PodDisruptionBudget taper",
    "Role taper-lease",
    "RoleBinding taper-lease",
    "Secret taper-reports",
    "Service taper-metrics",
    "Service taper-reports",
    "ServiceAccount taper",
]
MONITORED = ["PrometheusRule taper", "ServiceMonitor taper"]


# Of the parts that can be left out, what each brings.
PARTS: dict[str, tuple[Values, list[str]]] = {
    "service account": ({"serviceAccount": {"create": False, "name": "taper"}}, ["ServiceAccount taper"]),
    "network policy": ({"networkPolicy": {"enabled": False}}, ["NetworkPolicy taper"]),
    "budget": ({"podDisruptionBudget": {"enabled": False}}, ["PodDisruptionBudget taper"]),
    "one replica": ({"replicas": 1}, ["PodDisruptionBudget taper"]),
    "dashboards": ({"dashboards": {"create": False}}, ["ConfigMap taper-dashboards"]),
    "monitor": ({"serviceMonitor": {"create": "never"}}, ["ServiceMonitor taper"]),
    "alerts": ({"alerts": {"create": "never"}}, ["PrometheusRule taper"]),
    "user roles": (
        {"rbac": {"userRoles": False}},
        ["ClusterRole taper-taper-system-editor", "ClusterRole taper-taper-system-viewer"],
    ),
    "reports": (
        {"reports": {"enabled": False}},
        ["Secret taper-reports", "Service taper-reports"],
    ),
    "its own certificate": ({"reports": {"secretName": "certificate"}}, ["Secret taper-reports"]),
    "rights over the cluster": (
        {"rbac": {"readKuberayDefinition": False}, "reports": {"enabled": False}},
        [
            "ClusterRole taper-taper-system-cluster",
            "ClusterRoleBinding taper-taper-system-cluster",
            "Secret taper-reports",
            "Service taper-reports",
        ],
    ),
}


def names(values: Values, *, has_monitoring: bool = False) -> list[str]:
    """Kind and name of each object, with its namespace where that depends on the values."""
    found = objects(values, has_monitoring=has_monitoring)
    return sorted(
        f"{obj['kind']} {obj['metadata']['name']}"
        + (f" in {obj['metadata']['namespace']}" if _is_scoped(obj) else "")
        for obj in found
    )


def _is_scoped(obj: dict[str, Any]) -> bool:
    return obj["kind"] in ("Role", "RoleBinding") and not obj["metadata"]["name"].endswith("-lease")


def test_helm_finds_no_fault() -> None:
    reported = helm("lint", str(CHART), "--strict")
    assert reported.returncode == 0, reported.stdout + reported.stderr


@pytest.mark.parametrize("scope", SCOPES)
def test_the_objects_for_each_scope(scope: str) -> None:
    values, expected = SCOPES[scope]
    assert names(values) == sorted(ALWAYS + expected)
    assert names(values, has_monitoring=True) == sorted(ALWAYS + expected + MONITORED)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_disabled_alone(part: str) -> None:
    values, brought = PARTS[part]
    everything = names({}, has_monitoring=True)
    assert sorted(set(everything) - set(names(values, has_monitoring=True))) == brought


def test_objects_of_optional_apis_can_be_forced() -> None:
    made = names({"serviceMonitor": {"create": "always"}, "alerts": {"create": "always"}})
    assert set(MONITORED) <= set(made)


def test_no_roles_are_created_if_others_create_them() -> None:
    values = {"rbac": {"create": False, "userRoles": False}}
    assert [name for name in names(values) if "Role" in name] == []


@pytest.mark.parametrize("values", VARIANTS)
def test_every_field_is_one_of_kubernetes(values: Values) -> None:
    own = [obj for obj in objects(values) if obj["apiVersion"] != MONITORING]
    assert len(own) >= len(ALWAYS)
    assert [problem for obj in own for problem in problems_of(obj)] == []


@pytest.mark.parametrize("values", VARIANTS)
def test_every_object_belongs_to_the_release_and_to_an_intended_namespace(values: Values) -> None:
    for obj in objects(values):
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/part-of"] == "taper"
        namespace = obj["metadata"].get("namespace")
        if obj["kind"].startswith("Cluster"):
            assert namespace is None
        elif not _is_scoped(obj):
            assert namespace == NAMESPACE


@pytest.mark.parametrize(
    ("release", "name"), [("taper", "taper"), ("blue", "blue-taper"), ("x" * 53, "x" * 40)]
)
def test_names_follow_the_release(release: str, name: str) -> None:
    reported = helm("template", release, str(CHART), values={"crds": {"install": False}})
    (deployment,) = of_kind("Deployment", list(yaml.safe_load_all(reported.stdout)))
    assert deployment["metadata"]["name"] == name


def test_an_old_kubernetes_is_rejected_with_its_version() -> None:
    reported = template({}, "--kube-version=1.28.0")
    assert reported.returncode != 0
    assert "incompatible with Kubernetes v1.28.0" in reported.stderr
