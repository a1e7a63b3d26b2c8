"""Values of the chart: each scope of namespaces, and one of each way to render the pods."""

from __future__ import annotations

from .chart import Values

SCOPES: dict[str, tuple[Values, list[str]]] = {
    "its own": (
        {},
        [
            "Role taper-taper-system in taper-system",
            "RoleBinding taper-taper-system in taper-system",
        ],
    ),
    "several": (
        {"watchNamespaces": ["a", "b"]},
        [
            f"{kind} taper-taper-system in {namespace}"
            for kind in ("Role", "RoleBinding")
            for namespace in ("a", "b")
        ],
    ),
    "all": (
        {"watchNamespaces": ["*"]},
        ["ClusterRole taper-taper-system", "ClusterRoleBinding taper-taper-system"],
    ),
}


# One of each way to render the pods.
VARIANTS: list[Values] = [
    {},
    *(values for values, _ in SCOPES.values()),
    {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "imagePullSecrets": ["registry"],
        "priorityClassName": "high",
        "podLabels": {"team": "ml"},
        "podAnnotations": {"a": "b"},
        "serviceAccount": {"annotations": {"a": "b"}},
        "dashboards": {"annotations": {"a": "b"}},
        "rbac": {"aggregateUserRoles": True, "updateFinalizers": True},
    },
]
