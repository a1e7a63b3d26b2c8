"""Who reaches the operator, and whom it reaches."""

from __future__ import annotations

import pytest

from .chart import Values, objects, of_kind, operator_pod

HEADS = {"podSelector": {"matchLabels": {"taper.dev/role": "head"}}}
NAME_LABEL = "kubernetes.io/metadata.name"


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


def test_only_prometheus_reaches_the_operators_metrics_and_it_reaches_only_the_api_server() -> None:
    values = {"prometheusNamespace": "watchers", "networkPolicy": {"apiServerPorts": [9443]}}
    (policy,) = of_kind("NetworkPolicy", objects(values))
    ingress, _ = policy["spec"]["ingress"]
    (peer,) = ingress["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watchers"}}}
    assert ingress["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert policy["spec"]["egress"] == [{"ports": [{"port": 9443, "protocol": "TCP"}]}]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
