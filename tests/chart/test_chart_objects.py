"""What the chart makes, by the values; that its security holds for every one of them."""

from __future__ import annotations

import base64
import contextlib
import runpy
import ssl
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from taper_api.schema.crd import crd_files
from taper_operator.settings.certificate import server_context, trusted_certificates

from .chart import (
    CHART,
    MONITORING,
    NAMESPACE,
    RELEASE,
    Values,
    helm,
    helm_program,
    objects,
    of_kind,
    template,
    text,
)
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


def operator_pod(values: Values | None = None) -> dict[str, Any]:
    (deployment,) = of_kind("Deployment", objects(values))
    return dict(deployment["spec"]["template"]["spec"])


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


@pytest.mark.parametrize("values", VARIANTS)
def test_the_pods_meet_the_restricted_profile(values: Values) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, and a root that is read-only."""
    pod = operator_pod(values)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert [set(volume) for volume in pod.get("volumes", [])] in ([], [{"name", "secret"}])
    assert not {name for name in pod if name.startswith("host")}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPort" in port for port in container["ports"])
    assert "initContainers" not in pod


def test_replicas_take_turns_and_are_probed() -> None:
    (deployment,) = of_kind("Deployment", objects())
    assert deployment["spec"]["replicas"] == 2
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")}
    assert probes == {
        "liveness": {"path": "/healthz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
        "startup": {"path": "/healthz", "port": "metrics"},
    }
    (spread,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    chosen = spread["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert chosen.items() <= labels.items()


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget", "Deployment"])
def test_selectors_match_the_operators_pods(kind: str) -> None:
    found = objects({"podLabels": {"team": "ml"}})
    (deployment,) = of_kind("Deployment", found)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for obj in of_kind(kind, found):
        selector = obj["spec"].get("podSelector") or obj["spec"]["selector"]
        chosen = selector.get("matchLabels", selector)
        assert chosen
        assert chosen.items() <= labels.items()


def test_the_monitor_finds_the_service_and_its_port() -> None:
    found = objects()
    (monitor,) = of_kind("ServiceMonitor", found)
    service = next(obj for obj in of_kind("Service", found) if "metrics" in obj["metadata"]["name"])
    chosen = monitor["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    (container,) = operator_pod()["containers"]
    assert port["targetPort"] in [each["name"] for each in container["ports"]]


HEADS = {"podSelector": {"matchLabels": {"taper.dev/role": "head"}}}
NAME_LABEL = "kubernetes.io/metadata.name"


@pytest.mark.parametrize(
    ("namespaces", "selector"),
    [
        (["*"], {}),
        (["a", "b"], {"matchExpressions": [{"key": NAME_LABEL, "operator": "In", "values": ["a", "b"]}]}),
    ],
)
def test_the_heads_of_jobs_reach_the_operator_to_report(namespaces: list[str], selector: Values) -> None:
    found = objects({"watchNamespaces": namespaces})
    (policy,) = of_kind("NetworkPolicy", found)
    _, reports = policy["spec"]["ingress"]
    assert reports == {
        "from": [HEADS | {"namespaceSelector": selector}],
        "ports": [{"port": "reports", "protocol": "TCP"}],
    }
    service = next(obj for obj in of_kind("Service", found) if "reports" in obj["metadata"]["name"])
    (port,) = service["spec"]["ports"]
    (container,) = operator_pod()["containers"]
    assert port["targetPort"] in [each["name"] for each in container["ports"]]


def test_the_certificate_is_for_the_host_that_jobs_report_to(tmp_path: Path) -> None:
    """Made by helm: a client that trusts `ca.crt` and asks for the host of the URL takes `tls.crt`."""
    (secret,) = of_kind("Secret", objects())
    assert secret["type"] == "kubernetes.io/tls"
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_bytes(base64.b64decode(secret["data"][name]))
    server = server_context(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    client = ssl.create_default_context(cadata=trusted_certificates(str(tmp_path / "ca.crt")))
    (container,) = operator_pod()["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    host = urlsplit(env["TAPER_OPERATOR_REPORT_URL"]).hostname
    assert host == "taper-reports.taper-system.svc"
    shake_hands(server, client, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "taper-reports.other.svc")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """Both ends in memory. Raises SSLError where they do not agree."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in ends * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert ends[0].getpeercert() is not None


def test_the_operator_reads_the_certificate_where_it_is_mounted() -> None:
    pod = operator_pod({"reports": {"secretName": "certificate"}})
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == "certificate"
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
    env = {each["name"]: each.get("value") for each in container["env"]}
    files = {env[f"TAPER_OPERATOR_REPORT_{name}"] for name in ("CERTIFICATE", "KEY", "CA")}
    assert files == {f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}


def test_only_prometheus_reaches_the_operators_metrics_and_it_reaches_only_the_api_server() -> None:
    values = {"prometheusNamespace": "watchers", "networkPolicy": {"apiServerPorts": [9443]}}
    (policy,) = of_kind("NetworkPolicy", objects(values))
    ingress, _ = policy["spec"]["ingress"]
    (peer,) = ingress["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watchers"}}}
    assert ingress["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert policy["spec"]["egress"] == [{"ports": [{"port": 9443, "protocol": "TCP"}]}]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_crds_are_the_generated_ones_and_are_kept() -> None:
    generated = {crd["metadata"]["name"]: crd for crd in map(yaml.safe_load, crd_files().values())}
    found = yaml.load_all(text(), yaml.CSafeLoader)
    made = of_kind("CustomResourceDefinition", [obj for obj in found if obj is not None])
    assert len(made) == len(generated) == 2
    for crd in made:
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == generated[crd["metadata"]["name"]]


def test_the_crds_can_be_removed_with_the_release_or_left_out() -> None:
    assert "resource-policy" not in text({"crds": {"keep": False}})
    assert "CustomResourceDefinition" not in text({"crds": {"install": False}})


@pytest.mark.parametrize(
    ("release", "name"), [("taper", "taper"), ("blue", "blue-taper"), ("x" * 53, "x" * 40)]
)
def test_names_follow_the_release(release: str, name: str) -> None:
    reported = helm("template", release, str(CHART), values={"crds": {"install": False}})
    (deployment,) = of_kind("Deployment", list(yaml.safe_load_all(reported.stdout)))
    assert deployment["metadata"]["name"] == name


def notes(values: Values) -> str:
    """helm shows notes of what it installs; a dry run in the client needs no cluster."""
    reported = helm(
        "install", RELEASE, str(CHART), "--dry-run=client", f"--namespace={NAMESPACE}", values=values
    )
    assert reported.returncode == 0, reported.stderr
    return reported.stdout.partition("NOTES:")[2]


def test_the_notes_warn_of_values_that_grant_more_than_they_seem() -> None:
    reported = notes({"jobs": {"image": "", "allowedSecrets": ["*"]}, "crds": {"keep": False}})
    assert "An RLHFJob creates pods: granting taper-taper-system-editor" in reported
    assert "can read every secret" in reported
    assert "deletes them, and with them every RLHFJob" in reported
    assert "has no RayJob" in reported
    assert "must name its own" in reported


def test_the_notes_do_not_warn_about_good_values() -> None:
    reported = notes({"jobs": {"allowedSecrets": ["token"]}})
    assert "every secret" not in reported
    assert "must name its own" not in reported
    assert "stay when it is uninstalled" in reported


def test_an_old_kubernetes_is_rejected_with_its_version() -> None:
    reported = template({}, "--kube-version=1.28.0")
    assert reported.returncode != 0
    assert "incompatible with Kubernetes v1.28.0" in reported.stderr


def test_the_images_are_of_the_charts_own_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == chart["version"] == version
    (container,) = operator_pod()["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == f"taper/operator:{version}"
    assert env["TAPER_OPERATOR_IMAGE"] == f"taper/rollout:{version}"


@pytest.mark.parametrize("path", ["all-namespaces", "one-namespace", "monitoring"])
def test_the_manifests_without_helm_are_the_rendered_chart(path: str, rendered: dict[str, str]) -> None:
    file = CHART.parents[1] / "manifests" / "install" / f"{path}.yaml"
    assert file.read_text() == rendered[file.name], f"{path} is stale; run: make manifests"


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    render = runpy.run_path(str(CHART.parent / "render.py"))
    return {file.name: content for file, content in render["files"](helm_program()).items()}


@pytest.mark.parametrize(
    ("name", "values"), [("all-namespaces", {"watchNamespaces": ["*"]}), ("one-namespace", {})]
)
def test_without_helm_the_same_objects_are_created(
    name: str, values: Values, rendered: dict[str, str]
) -> None:
    made = list(yaml.safe_load_all(rendered[f"{name}.yaml"]))
    namespace, *others = made
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", NAMESPACE)
    less = {"dashboards": {"create": False}, "reports": {"secretName": "taper-reports"}}
    by_helm = objects(values | less, has_monitoring=False)
    assert sorted(_name(obj) for obj in others) == sorted(_name(obj) for obj in by_helm)
    assert all("Helm" not in obj["metadata"]["labels"].values() for obj in others)


def _name(obj: dict[str, Any]) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]
