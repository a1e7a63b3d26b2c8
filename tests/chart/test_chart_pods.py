"""The operator's pods: their security for every value, probes, images, and what selects them."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from .chart import CHART, Values, objects, of_kind, operator_pod
from .chart_variants import VARIANTS


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


def test_the_images_are_of_the_charts_own_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == chart["version"] == version
    (container,) = operator_pod()["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == f"taper/operator:{version}"
    assert env["TAPER_OPERATOR_IMAGE"] == f"taper/rollout:{version}"
