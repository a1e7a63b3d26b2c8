"""The chart by a real helm on a real API server: install, upgrade, rollback, uninstall."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_operator.kube.errors import Forbidden
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource
from taper_operator.manifests.kinds import DEFINITIONS, PODS, RLHF_JOBS, SERVICE_ACCOUNTS

from ...api.rule_violations import broken
from ..conftest import CRDS
from ..control_plane.chart_access import CHART
from ..control_plane.cluster import Cluster
from ..control_plane.cluster_tools import find

RELEASE = "taper"
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
RLHF_DEFINITION = "rlhfjobs.taper.dev"
AGE = "Age"


class Helm:
    """helm in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, home: Path) -> None:
        self._program = find("helm")
        self.namespace = namespace
        self._env = {
            "HOME": str(home),
            "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
            "PATH": os.environ["PATH"],
        }

    def try_to(self, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, command, RELEASE, *map(str, arguments), f"--namespace={self.namespace}"],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def do(self, command: str, *arguments: object) -> str:
        reported = self.try_to(command, *arguments)
        assert reported.returncode == 0, reported.stderr
        return reported.stdout


@pytest.fixture
def older_chart(tmp_path: Path) -> Path:
    """The chart as an earlier version may have been: its definition of RLHFJob lacks a column."""
    older = tmp_path / "older"
    shutil.copytree(CHART, older)
    (definition,) = (older / "files" / "crds").glob("*_rlhfjobs.yaml")
    content = yaml.safe_load(definition.read_text())
    columns = content["spec"]["versions"][0]["additionalPrinterColumns"]
    content["spec"]["versions"][0]["additionalPrinterColumns"] = [
        column for column in columns if column["name"] != AGE
    ]
    definition.write_text(yaml.safe_dump(content, sort_keys=False))
    chart = older / "Chart.yaml"
    chart.write_text(chart.read_text().replace("\nversion: 0.1.0", "\nversion: 0.0.1"))
    return older


@pytest.fixture
def helm(api: Cluster, tmp_path: Path) -> Iterator[Helm]:
    """In a namespace for restricted pods only. The definitions are left as other tests have them."""
    namespace = api.new_namespace("chart")
    yield Helm(api, namespace, tmp_path)
    api.define(*(yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))))


def columns(api: Cluster) -> list[str]:
    """Of the definition of RLHFJob as it is served."""
    definition = api.api.get(DEFINITIONS, ObjectKey("", RLHF_DEFINITION))
    return [column["name"] for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]]


def deployment(api: Cluster, namespace: str) -> KubeObject | None:
    return api.found(DEPLOYMENTS, namespace, RELEASE)


def workers(api: Cluster, namespace: str) -> str:
    found = deployment(api, namespace)
    assert found is not None
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return next(each["value"] for each in container["env"] if each["name"] == "TAPER_OPERATOR_WORKERS")


def certificate(api: Cluster, namespace: str) -> Any:
    return api.api.get(SECRETS, ObjectKey(namespace, f"{RELEASE}-reports"))["data"]


def test_install_upgrade_rollback_uninstall(api: Cluster, helm: Helm, older_chart: Path) -> None:
    namespace = helm.namespace
    # CRDs that were applied without helm are reported, and adopted only on request.
    reported = helm.try_to("install", older_chart)
    assert reported.returncode != 0
    assert RLHF_DEFINITION in reported.stderr
    helm.do("install", older_chart, "--take-ownership", "--force-conflicts")
    assert AGE not in columns(api)
    assert workers(api, namespace) == "4"
    made = certificate(api, namespace)
    job = broken({"metadata.namespace": namespace})
    api.api.create(RLHF_JOBS, job)

    helm.do("upgrade", CHART, "--set=workers=9")
    assert AGE in columns(api)
    assert workers(api, namespace) == "9"
    # Running jobs authenticate the operator by it.
    assert certificate(api, namespace) == made

    helm.do("rollback", 1)
    assert AGE not in columns(api)
    assert workers(api, namespace) == "4"
    assert certificate(api, namespace) == made

    helm.do("upgrade", CHART)
    helm.do("uninstall")
    assert deployment(api, namespace) is None
    # The CRDs and the jobs stay.
    assert AGE in columns(api)
    assert api.found(RLHF_JOBS, namespace, job["metadata"]["name"]) is not None


def test_the_operators_pods_are_admitted_to_a_restricted_namespace(api: Cluster, helm: Helm) -> None:
    reported = helm.do("template", CHART, "--set=crds.install=false", "--set=reports.secretName=certificate")
    (found,) = (obj for obj in yaml.safe_load_all(reported) if obj["kind"] == "Deployment")
    template, namespace = found["spec"]["template"], helm.namespace
    account = {"name": template["spec"]["serviceAccountName"], "namespace": namespace}
    api.ensure(SERVICE_ACCOUNTS, {"metadata": account})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"] | {"name": "operator", "namespace": namespace},
        "spec": template["spec"],
    }
    assert api.dry_run.create(PODS, pod)["spec"]["serviceAccountName"] == RELEASE
    with pytest.raises(Forbidden, match="violates PodSecurity"):
        api.dry_run.create(PODS, pod | {"spec": template["spec"] | {"hostNetwork": True}})
