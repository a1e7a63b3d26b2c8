"""Ownership, labels and order of an attempt's objects."""

from __future__ import annotations

from hypothesis import given

from taper_operator.kube.resource import KubeObject, Resource
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    POD_MONITORS,
    RAY_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import DIGEST_ANNOTATION, JOB_LABEL

from ...api.job_specs import Fields, valid_jobs
from ..job_objects import UID, as_served, made_for, resource


def made(kind: Resource, obj: KubeObject) -> KubeObject:
    (found,) = (each for resource, each in made_for(obj) if resource == kind)
    return found


@given(valid_jobs())
def test_every_object_has_its_jobs_labels_and_owner(content: Fields) -> None:
    name = content["metadata"]["name"]
    objects = made_for(as_served(content), 3)
    for kind, obj in objects:
        assert obj["kind"] == kind.kind
        assert obj["apiVersion"] == kind.api_version
        assert obj["metadata"]["namespace"] == "team"
        assert obj["metadata"]["labels"][JOB_LABEL] == name
        if kind == CLAIMS:
            assert "ownerReferences" not in obj["metadata"]
        else:
            (owner,) = obj["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["name"], owner["uid"]) == ("RLHFJob", name, UID)
            assert owner["controller"]
    assert objects[-1][0] == RAY_JOBS


def test_the_config_map_cannot_be_changed() -> None:
    assert made(CONFIG_MAPS, resource())["immutable"] is True


def test_the_service_account_gives_no_token() -> None:
    account = made(SERVICE_ACCOUNTS, resource())
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["name"] == "taper-full"


def test_allowed_connections_to_the_pods() -> None:
    changes = {"spec.rollout": {**resource()["spec"]["rollout"], "metrics": {"port": 9999}}}
    policy = made(NETWORK_POLICIES, resource(changes))["spec"]
    pods = {"matchLabels": {"taper.dev/job": "full", "taper.dev/job-uid": UID}}
    assert policy["podSelector"] == pods
    assert policy["policyTypes"] == ["Ingress"]
    among, kuberay, prometheus = policy["ingress"]
    assert among == {"from": [{"podSelector": pods}]}
    assert _namespace_and_ports(kuberay) == ("kuberay-system", [8265])
    assert _namespace_and_ports(prometheus) == ("monitoring", [8080, 9999])


def test_the_monitor_finds_the_ports_by_name() -> None:
    monitor = made(POD_MONITORS, resource())["spec"]
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["taper-metrics", "metrics"]
    worker = made(RAY_JOBS, resource())["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    names = [port["name"] for port in worker["template"]["spec"]["containers"][0]["ports"]]
    assert names == ["taper-metrics", "metrics"]


def test_a_claim_is_created_only_if_a_size_is_requested() -> None:
    assert CLAIMS not in [kind for kind, _ in made_for(resource())]
    volumes = {"checkpoints": {"size": "1Ti", "storageClassName": "fast"}}
    claim = made(CLAIMS, resource({"spec.volumes": volumes}))
    assert claim["metadata"]["name"] == "full-checkpoints"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
        "storageClassName": "fast",
    }


def test_the_digest_changes_with_the_desired_state_only() -> None:
    first = made(NETWORK_POLICIES, resource())["metadata"]["annotations"][DIGEST_ANNOTATION]
    changes = {"spec.rollout": {**resource()["spec"]["rollout"], "metrics": {"port": 9999}}}
    second = made(NETWORK_POLICIES, resource(changes))["metadata"]["annotations"][DIGEST_ANNOTATION]
    assert first != second
    assert first == made(NETWORK_POLICIES, resource())["metadata"]["annotations"][DIGEST_ANNOTATION]


def _namespace_and_ports(rule: KubeObject) -> tuple[str, list[int]]:
    (peer,) = rule["from"]
    (namespace,) = peer["namespaceSelector"]["matchLabels"].values()
    return namespace, [port["port"] for port in rule["ports"]]
