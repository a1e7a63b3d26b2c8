"""Every value is in the schema, has an effect, reaches the operator, and is rejected if it is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_operator.settings.settings import POD_SETTINGS, RUN_SETTINGS, settings_from

from .chart import CHART, Values, nested, objects, of_kind, refusal, text

VALUES: Values = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# Of each value another one that is right, and one that is wrong.
OTHERS: dict[str, tuple[Any, Any]] = {
    "watchNamespaces": (["a", "b"], ["Not-a-namespace"]),
    "replicas": (3, 0),
    "image.repository": ("example/operator", "A B"),
    "image.tag": ("1.2.3", "a:b"),
    "image.digest": ("sha256:" + "0" * 64, "sha256:12"),
    "image.pullPolicy": ("Always", "Sometimes"),
    "imagePullSecrets": (["registry"], [{"name": "registry"}]),
    "logLevel": ("debug", "loud"),
    "workers": (8, 65),
    "leaseSeconds": ("15/10/2", "10"),
    "resources": ({"limits": {"memory": "1Gi"}}, {"claims": []}),
    "nodeSelector": ({"pool": "system"}, {"pool": 1}),
    "tolerations": ([{"key": "system", "operator": "Exists"}], {"key": "system"}),
    "affinity": ({"nodeAffinity": {}}, []),
    "priorityClassName": ("high", "High!"),
    "podLabels": ({"team": "ml"}, {"app.kubernetes.io/name": "other"}),
    "podAnnotations": ({"a": "b"}, {"a": True}),
    "jobs.image": ("", "-a"),
    "jobs.allowedSecrets": (["token"], ["To_ken"]),
    "jobs.allowIpcLock": (True, "true"),
    "jobs.gpuResource": ("amd.com/gpu", "/gpu"),
    "jobs.gpuLabel": ("example.com/gpu", "a b"),
    "jobs.graceSeconds": (120, 5),
    "reports.enabled": (False, "false"),
    "reports.secretName": ("certificate", "Certificate"),
    "kuberayNamespace": ("rays", "a.b"),
    "prometheusNamespace": ("watchers", ""),
    "serviceAccount.create": (False, "no"),
    "serviceAccount.name": ("other", "Other"),
    "serviceAccount.annotations": ({"a": "b"}, {"a": None}),
    "rbac.create": (False, 0),
    "rbac.readKuberayDefinition": (False, "false"),
    "rbac.updateFinalizers": (True, "true"),
    "rbac.userRoles": (False, "false"),
    "rbac.aggregateUserRoles": (True, "true"),
    "networkPolicy.enabled": (False, "false"),
    "networkPolicy.apiServerPorts": ([8443], [0]),
    "crds.install": (False, "false"),
    "crds.keep": (False, "false"),
    "podDisruptionBudget.enabled": (False, "false"),
    "serviceMonitor.create": ("never", True),
    "serviceMonitor.interval": ("1m", "often"),
    "serviceMonitor.labels": ({"release": "prometheus"}, {"helm.sh/chart": "other"}),
    "alerts.create": ("never", False),
    "alerts.labels": ({"release": "prometheus"}, {"a": "no label value"}),
    "dashboards.create": (False, "false"),
    "dashboards.namespace": ("grafana", "Grafana"),
    "dashboards.labels": ({"dashboards": "yes"}, {"a/b/c": "d"}),
    "dashboards.annotations": ({"folder": "taper"}, {"folder": 1}),
}
# Values that are wrong only together with others.
CONTRADICTIONS: dict[str, tuple[Values, str]] = {
    "all and some namespaces": ({"watchNamespaces": ["*", "a"]}, "watchNamespaces"),
    "all and some secrets": ({"jobs": {"allowedSecrets": ["*", "a"]}}, "jobs.allowedSecrets"),
    "no account": ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    "lease times the wrong way round": ({"leaseSeconds": "7/10/2"}, "leaseSeconds"),
    "equal lease times": ({"leaseSeconds": "10/10/2"}, "leaseSeconds"),
    "a retry that comes too late": ({"leaseSeconds": "10/7/8"}, "leaseSeconds"),
    "an unknown value": ({"replica": 3}, "replica"),
    "an unknown value in a block": ({"jobs": {"secrets": ["a"]}}, "secrets"),
}


def leaves(values: Values, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of all values that are set by themselves."""
    for name, value in values.items():
        field = schema["properties"][name]
        is_block = (
            isinstance(value, dict) and field.get("additionalProperties") is False and name != "resources"
        )
        if is_block:
            yield from leaves(value, field, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def blocks(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "properties" in schema:
        yield path, schema
        for name, field in schema["properties"].items():
            yield from blocks(field, f"{path}.{name}")


def values_of(path: str, value: Any) -> Values:
    """The value in a chart of which each part is made, so that it can be seen."""
    values = nested(path, value)
    if path == "serviceAccount.create":
        values["serviceAccount"]["name"] = "other"
    if path != "crds.install" and path != "crds.keep":
        values["crds"] = {"install": False}
    return values


def made(values: Values) -> list[Any]:
    """What is made, without the certificate, which is another each time."""
    found = yaml.load_all(text(values), yaml.CSafeLoader)
    return [obj if obj["kind"] != "Secret" else obj | {"data": None} for obj in found if obj is not None]


@pytest.fixture(scope="module")
def by_default() -> dict[bool, list[Any]]:
    """The chart as it is, with the CRDs and without."""
    return {has_crds: made({"crds": {"install": has_crds}}) for has_crds in (True, False)}


def test_every_value_is_tried_here() -> None:
    assert sorted(leaves(VALUES, SCHEMA)) == sorted(OTHERS)


def test_the_schema_has_no_value_that_the_chart_lacks() -> None:
    """`global` is there for a chart that has this one in it."""
    assert set(SCHEMA["properties"]) - set(VALUES) == {"global"}
    for path, block in blocks(SCHEMA):
        found: Any = VALUES
        for name in path.split(".")[1:]:
            found = found.get(name, {})
        if path not in ("", ".resources"):
            assert set(block["properties"]) == set(found), path


def test_the_schema_rejects_unknown_values_and_describes_each() -> None:
    for path, block in blocks(SCHEMA):
        assert block["additionalProperties"] is False, path
        if path != ".resources":
            assert all(field.get("description") for field in block["properties"].values()), path


@pytest.mark.parametrize("path", OTHERS)
def test_every_value_changes_the_rendered_objects(path: str, by_default: dict[bool, list[Any]]) -> None:
    assert made(values_of(path, OTHERS[path][0])) != by_default[path.startswith("crds.")]


def test_wrong_values_are_named_all_at_once() -> None:
    wrong: Values = {}
    for path, (_, value) in OTHERS.items():
        block, _, name = path.rpartition(".")
        (wrong.setdefault(block, {}) if block else wrong)[name] = value
    reported = refusal(wrong)
    assert [path for path in OTHERS if f"at '/{path.replace('.', '/')}" not in reported] == []


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_named(case: str) -> None:
    values, name = CONTRADICTIONS[case]
    reported = refusal(values)
    assert name in reported or name.replace(".", "/") in reported


def environment(values: Values) -> dict[str, str]:
    """The operator's environment, with what the kubelet fills in; no files are mounted here."""
    (deployment,) = of_kind("Deployment", objects(values))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [*container["command"], *container["args"]] == ["taper-operator", "run"]
    filled = {"metadata.name": "taper-5d8f-x2x", "metadata.namespace": "taper-system"}
    return {
        each["name"]: each["value"] if "value" in each else filled[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container["env"]
    }


def test_the_operator_takes_the_settings_that_the_chart_gives() -> None:
    settings = settings_from([], environment({"reports": {"enabled": False}}))
    assert settings.pod_policy.report_url == ""
    assert settings.namespaces == (settings.namespace,) == ("taper-system",)
    assert settings.identity == "taper-5d8f-x2x"
    assert settings.address.port == 8080
    assert settings.pod_policy.allowed_secrets == frozenset()
    assert settings.pod_policy.allows_ipc_lock is False


def test_values_reach_the_operators_settings() -> None:
    values = {
        "watchNamespaces": ["*"],
        "reports": {"enabled": False},
        "workers": 9,
        "logLevel": "debug",
        "leaseSeconds": "20/15/1.5",
        "kuberayNamespace": "rays",
        "prometheusNamespace": "watchers",
        "jobs": {
            "image": "taper/rollout:1",
            "allowedSecrets": ["a", "b"],
            "allowIpcLock": True,
            "gpuResource": "amd.com/gpu",
            "gpuLabel": "example.com/gpu",
            "graceSeconds": 90,
        },
    }
    settings = settings_from([], environment(values))
    assert settings.namespaces == ()
    assert (settings.workers, settings.log_level) == (9, "debug")
    assert settings.lease_times.renew_deadline_seconds == 15
    policy = settings.pod_policy
    assert (policy.image, policy.grace_seconds) == ("taper/rollout:1", 90)
    assert (policy.allowed_secrets, policy.allows_ipc_lock) == (frozenset({"a", "b"}), True)
    assert (policy.gpu_resource, policy.gpu_label) == ("amd.com/gpu", "example.com/gpu")
    assert (policy.kuberay_namespace, policy.prometheus_namespace) == ("rays", "watchers")


def test_every_setting_of_the_operator_can_be_reached() -> None:
    variables = {setting.variable for setting in (*RUN_SETTINGS, *POD_SETTINGS)}
    # Inside a cluster there is no kubeconfig.
    assert variables - {"KUBECONFIG"} == set(environment({}))


def test_the_settings_of_reports_are_taken_with_the_files_that_are_mounted(tmp_path: Path) -> None:
    (secret,) = of_kind("Secret", objects({}))
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
    mounted = {
        name: value.replace("/etc/taper/reports", str(tmp_path)) for name, value in environment({}).items()
    }
    settings = settings_from([], mounted)
    assert settings.report_address.port == 8443
    assert settings.pod_policy.report_url == "https://taper-reports.taper-system.svc:8443"
    assert "BEGIN CERTIFICATE" in settings.pod_policy.report_ca.text
