"""Who may do what: the chart's roles equal this table, which follows from what the operator's code sends."""

from __future__ import annotations

from typing import Any

import pytest

from taper_operator.kube.resource import EVENTS, LEASES, Resource
from taper_operator.main import watched_kinds
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    DEFINITIONS,
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RLHF_JOBS,
    SERVICE_ACCOUNTS,
    TOKEN_REVIEWS,
)
from taper_operator.observation.kuberay_support import NAME as KUBERAY_DEFINITION

from .chart import RELEASE, SERVICE_ACCOUNT, KubeObject, Values, objects, of_kind

WATCHED = {"list", "watch"}
# What the operator does in each namespace that it serves.
VERBS: dict[Resource, set[str]] = {
    RLHF_JOBS: WATCHED | {"get", "delete"},
    RAY_JOBS: WATCHED | {"create", "delete"},
    RAY_CLUSTERS: WATCHED,
    PODS: WATCHED,
    CONFIG_MAPS: WATCHED | {"create", "delete"},
    SERVICE_ACCOUNTS: WATCHED | {"create", "patch"},
    NETWORK_POLICIES: WATCHED | {"create", "patch"},
    POD_MONITORS: WATCHED | {"create", "patch"},
    CLAIMS: {"create"},
    EVENTS: {"create"},
}
TABLE = {(kind.group, kind.plural): verbs for kind, verbs in VERBS.items()} | {
    (RLHF_JOBS.group, f"{RLHF_JOBS.plural}/status"): {"patch"}
}
NAMED_LEASE = ((LEASES.group, LEASES.plural), frozenset({RELEASE}), frozenset({"get", "update"}))
NEW_LEASE = ((LEASES.group, LEASES.plural), frozenset[str](), frozenset({"create"}))


def granted(role: KubeObject) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource of a role without names of objects."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                assert (group, resource) not in verbs
                verbs[group, resource] = set(rule["verbs"])
    return verbs


def the(found: list[KubeObject], kind: str, name: str, namespace: str | None = None) -> KubeObject:
    (obj,) = (
        each
        for each in of_kind(kind, found)
        if each["metadata"]["name"] == name
        and (namespace is None or each["metadata"]["namespace"] == namespace)
    )
    return obj


@pytest.mark.parametrize("namespaces", [[], ["a"], ["a", "b"]])
def test_in_each_served_namespace_the_operator_may_do_what_it_does(namespaces: list[str]) -> None:
    found = objects({"watchNamespaces": namespaces})
    for namespace in namespaces or ["taper-system"]:
        role = the(found, "Role", "taper-taper-system", namespace)
        assert granted(role) == TABLE
        binding = the(found, "RoleBinding", "taper-taper-system", namespace)
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["subjects"] == [SERVICE_ACCOUNT]


def test_for_all_namespaces_it_is_the_same_once() -> None:
    found = objects({"watchNamespaces": ["*"]})
    assert granted(the(found, "ClusterRole", "taper-taper-system")) == TABLE
    binding = the(found, "ClusterRoleBinding", "taper-taper-system")
    assert binding["roleRef"]["name"] == "taper-taper-system"
    assert binding["subjects"] == [SERVICE_ACCOUNT]


def test_every_cached_kind_may_be_listed_and_watched() -> None:
    watched = {(kind.resource.group, kind.resource.plural) for kind in watched_kinds()}
    assert watched == {resource for resource, verbs in TABLE.items() if verbs >= WATCHED}


def test_the_lease_is_its_own_and_no_other() -> None:
    found = objects()
    role = the(found, "Role", "taper-lease", "taper-system")
    rules = [
        (
            (rule["apiGroups"][0], rule["resources"][0]),
            frozenset(rule.get("resourceNames", [])),
            frozenset(rule["verbs"]),
        )
        for rule in role["rules"]
    ]
    assert rules == [NAMED_LEASE, NEW_LEASE]
    (container,) = of_kind("Deployment", found)[0]["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["TAPER_OPERATOR_LEASE_NAME"] == RELEASE


READS_THE_DEFINITION = {
    "apiGroups": [DEFINITIONS.group],
    "resources": [DEFINITIONS.plural],
    "resourceNames": [KUBERAY_DEFINITION],
    "verbs": ["get"],
}
REVIEWS_TOKENS = {
    "apiGroups": [TOKEN_REVIEWS.group],
    "resources": [TOKEN_REVIEWS.plural],
    "verbs": ["create"],
}


@pytest.mark.parametrize(
    ("values", "rules"),
    [
        ({}, [READS_THE_DEFINITION, REVIEWS_TOKENS]),
        ({"reports": {"enabled": False}}, [READS_THE_DEFINITION]),
        ({"rbac": {"readKuberayDefinition": False}}, [REVIEWS_TOKENS]),
    ],
)
def test_cluster_wide_it_may_read_one_crd_and_review_tokens(
    values: Values, rules: list[dict[str, Any]]
) -> None:
    assert the(objects(values), "ClusterRole", "taper-taper-system-cluster")["rules"] == rules


def test_finalizers_may_be_updated_only_if_requested() -> None:
    found = objects({"rbac": {"updateFinalizers": True}})
    more = {("taper.dev", "rlhfjobs/finalizers"): {"update"}}
    assert granted(the(found, "Role", "taper-taper-system")) == TABLE | more


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["*"]}, {"rbac": {"updateFinalizers": True}}])
def test_no_role_grants_secrets_or_wildcards(values: Values) -> None:
    for role in (each for each in objects(values) if each["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            said: list[Any] = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in said
            assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])


VIEW = {"get", "list", "watch"}
EDIT = VIEW | {"create", "update", "patch", "delete", "deletecollection"}


@pytest.mark.parametrize(("role", "verbs", "part_of"), [("viewer", VIEW, "view"), ("editor", EDIT, "edit")])
def test_users_may_view_or_edit(role: str, verbs: set[str], part_of: str) -> None:
    name, label = f"taper-taper-system-{role}", f"rbac.authorization.k8s.io/aggregate-to-{part_of}"
    alone = the(objects(), "ClusterRole", name)
    assert granted(alone) == {("taper.dev", "rlhfjobs"): verbs, ("taper.dev", "tpprofiles"): verbs}
    assert label not in alone["metadata"]["labels"]
    included = the(objects({"rbac": {"aggregateUserRoles": True}}), "ClusterRole", name)
    assert included["metadata"]["labels"][label] == "true"
