"""The operator's ServiceAccount and rights, as the chart has them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from taper_operator.kube.resource import KubeObject

from .cluster_tools import find

CHART = Path(__file__).parents[3] / "charts" / "taper"
# The chart's names for this release.
RELEASE = "taper"
_KINDS = {
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
}
# With the extra right that the test cluster requires.
_SETTINGS = (
    "rbac.updateFinalizers=true",
    "rbac.userRoles=false",
    "crds.install=false",
)


def access_objects(
    namespace: str, watched: Sequence[str], *, receives_reports: bool = False
) -> list[KubeObject]:
    """The objects that grant an operator in a namespace its rights.

    watched: namespaces, or `*` for all
    receives_reports: whether jobs report to it, about whose tokens it then asks
    """
    reports = f"reports.enabled={str(receives_reports).lower()}"
    sets = [*_SETTINGS, reports, f"watchNamespaces={{{','.join(watched)}}}"]
    command = [find("helm"), "template", RELEASE, CHART, "--namespace", namespace]
    command += [part for each in sets for part in ("--set", each)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [obj for obj in yaml.safe_load_all(text) if obj and obj["kind"] in _KINDS]


def rules_of(objects: Sequence[KubeObject]) -> set[tuple[str, str, str]]:
    """Verb, API group and resource of all that is granted."""
    return {
        (verb, group, resource)
        for obj in objects
        for rule in obj.get("rules", ())
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
