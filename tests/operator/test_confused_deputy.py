"""Whoever writes an RLHFJob gets nothing in the operator's name that its settings do not allow.

Two jobs between them have every field that there is. Each of their fields is given each hostile value, and
each of their mappings each hostile key; what comes of it is a refusal, or objects without a danger.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api import JobError
from taper_api.schema.crd import rlhfjob_crd
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests import attempt_job
from taper_operator.settings.parsing import TrustedFile
from taper_operator.settings.pod_policy import PodPolicy

from ..api.job_specs import Fields, valid_jobs
from .hostile_values import (
    KEYS,
    SECRET,
    VALUES,
    Path,
    at,
    paths_of,
    with_every_key,
    with_value_everywhere,
    written,
)
from .job_objects import as_served, made_for, parsed, pod_templates
from .manifests.pod_dangers import dangers

# As the chart sets them, but for one secret that jobs may name.
STRICT = PodPolicy(
    image="taper/rollout:1",
    allowed_secrets=frozenset({"mine"}),
    report_url="https://taper-reports.taper-system.svc:8443",
    report_ca=TrustedFile("ca.crt", "-----BEGIN CERTIFICATE-----"),
)

_TERM = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
_PODS = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname"}
_PODS_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_PODS],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": _PODS}],
}
_POOL = {
    "memory": "64Gi",
    "sharedMemory": "1Gi",
    "ephemeralStorage": "1Gi",
    "nodeSelector": {"a": "b"},
    "tolerations": [
        {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 9}
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _TERM}],
        },
        "podAffinity": _PODS_AFFINITY,
        "podAntiAffinity": _PODS_AFFINITY,
    },
    "topology": {"required": "topology.example/rack"},
    "priorityClassName": "training",
    "runtimeClassName": "nvidia",
    "overlay": {
        "labels": {"team": "a"},
        "annotations": {"karpenter.sh/do-not-disrupt": "true"},
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "supplementalGroups": [1001],
        "terminationGracePeriodSeconds": 60,
    },
}
ONE: Fields = {
    "apiVersion": "taper.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "one", "labels": {"a": "b"}, "annotations": {"a": "b"}},
    "spec": {
        "model": {"path": "a/b", "dtype": "bfloat16", "trustRemoteCode": False},
        "data": {
            "train": ["a.jsonl"],
            "validation": ["b.jsonl"],
            "promptField": "prompt",
            "answerField": "answer",
            "maxPromptTokens": 64,
            "overlong": "error",
            "shuffle": True,
            "seed": 1,
        },
        "reward": {"function": "a.py:score", "settings": {"a": 1}},
        "algorithm": {
            "name": "grpo",
            "learningRate": 1e-6,
            "klCoefficient": 0.1,
            "clipRatio": 0.2,
            "entropyCoefficient": 0.1,
            "miniBatchPrompts": 8,
            "epochsPerStep": 1,
        },
        "training": {
            "steps": 3,
            "batchPrompts": 8,
            "seed": 1,
            "ranks": 4,
            "nodes": 1,
            "validation": {"everySteps": 1, "before": True},
            "checkpoints": {"directory": "a", "everySteps": 1, "keep": 1, "resume": "auto"},
        },
        "rollout": {
            "footprint": 4,
            "degrees": [1, 2, 4],
            "mode": "enforce",
            "policy": {
                "name": "predictor",
                "predictor": {"marginSeconds": 0.1, "marginShare": 0.1, "confidence": 0.5},
            },
            "samplesPerPrompt": 4,
            "responseTokens": 128,
            "sampling": {"temperature": 1.0, "topP": 1.0, "topK": -1, "seed": 1},
            "switch": {"kv": "auto", "timeoutSeconds": 30},
            "maxRunningRequests": 8,
            "kvTokens": 4096,
            "profile": "profile.json",
            "port": 20000,
            "metrics": {"host": "node", "port": 9999},
        },
        "verl": {"trainer.logger": ["console"]},
        "image": {"name": "a/b:1", "pullPolicy": "Always", "pullSecrets": ["mine"]},
        "env": [{"name": "A", "value": "b"}, {"name": "B", "secret": {"name": "mine", "key": "token"}}],
        "volumes": {
            "checkpoints": {"claimName": "saved", "subPath": "a/b", "mountPath": "/mnt/saved"},
            "data": [{"claimName": "data", "subPath": "a", "readOnly": True, "mountPath": "/mnt/data"}],
            "modelCache": {"claimName": "models", "subPath": "a", "mountPath": "/mnt/hub"},
        },
        "nodePools": {
            "head": {"cpu": 4, **_POOL},
            "gpu": {"cpu": 16, "gpuType": "H100", "gpusPerNode": 4, "nodes": 1, **_POOL}
            | {"rdma": {"resource": "rdma/hca", "count": 1, "ipcLock": False}},
            "startupTimeoutSeconds": 600,
        },
        "kueue": {"queueName": "q", "priorityClass": "high"},
        "submissionMode": "K8sJobMode",
        "backoffLimit": 3,
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 60,
        "suspend": False,
        "managedBy": "taper.dev/operator",
    },
}
# The same with what excludes what the first one has.
OTHER: Fields = copy.deepcopy(ONE)
OTHER["spec"] |= {
    "rollout": ONE["spec"]["rollout"] | {"policy": {"name": "threshold", "threshold": {"requests": 3}}},
    "volumes": {
        "checkpoints": {"size": "1Ti", "storageClassName": "fast", "accessMode": "ReadWriteMany"},
        "modelCache": {"size": "1Gi"},
    },
    "submissionMode": "HTTPMode",
}
OTHER["spec"]["nodePools"]["gpu"]["topology"] = {"preferred": "topology.example/rack"}
OTHER["spec"]["nodePools"]["head"]["topology"] = {"preferred": "topology.example/rack"}
THIRD: Fields = copy.deepcopy(ONE)
THIRD["spec"]["rollout"]["policy"] = {"name": "schedule", "schedule": [{"tokens": 8, "degree": 4}]}
JOBS = {"one": ONE, "other": OTHER, "third": THIRD}


@pytest.fixture(autouse=True, scope="module")
def _no_text() -> Iterator[None]:
    """Skips the text in the ConfigMap, which only `taper run` reads, and which is slow to write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt_job, "job_text", lambda job: "")
        yield


def dangers_in(job: Fields, policy: PodPolicy = STRICT) -> list[str] | None:
    """The dangers in the objects created for a job; None if the job is refused."""
    obj = as_served(job)
    try:
        read, identity = parsed(obj)
    except JobError:
        return None
    if list(policy.refusals(read.spec)):
        return None
    return list(dangers(made_for(obj, policy=policy), identity, policy))


def refused_paths(job: Fields) -> set[str]:
    """Where the parser finds a job wrong."""
    try:
        parsed(as_served(job))
    except JobError as error:
        return {problem.path for problem in error.problems}
    return set()


@pytest.mark.parametrize("name", JOBS)
def test_the_valid_jobs_are_accepted(name: str) -> None:
    assert dangers_in(JOBS[name]) == []


def test_between_them_they_have_every_field() -> None:
    (version,) = rlhfjob_crd()["spec"]["versions"]
    wanted = set(_schema_paths(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"))
    found = {path for job in JOBS.values() for path in _value_paths(job["spec"], "spec")}
    assert wanted - found == set()


def _schema_paths(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        # Raw settings are VeRL's: the schema only names those that are refused.
        if path != "spec.verl":
            yield f"{path}.{name}"
            yield from _schema_paths(field, f"{path}.{name}")
    if "items" in schema:
        yield from _schema_paths(schema["items"], path)


def _value_paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            yield from _value_paths(inner, f"{path}.{name}")
    if isinstance(value, list):
        for inner in value:
            yield from _value_paths(inner, path)


def own_paths(name: str) -> list[Path]:
    """Paths of a job's fields; of the second and third job those that the first one has not."""
    mine = list(paths_of(JOBS[name]["spec"], ("spec",)))
    others = set() if name == "one" else set(paths_of(ONE["spec"], ("spec",)))
    return [path for path in mine if path not in others]


@pytest.mark.parametrize("name", JOBS)
def test_no_mapping_of_a_job_takes_a_hostile_key(name: str) -> None:
    """Each is refused by its path, or it is a key of a free mapping, of which nothing dangerous is made."""
    job, num_refused = JOBS[name], 0
    for path in own_paths(name):
        if isinstance(at(job, path), dict):
            refused = refused_paths(with_every_key(job, path))
            for key in KEYS:
                if f"{written(path)}.{key}" in refused or f"{written(path)}['{key}']" in refused:
                    num_refused += 1
                else:
                    changed = with_value_everywhere(job, [(*path, key)], KEYS[key])
                    assert not dangers_in(changed), f"{written(path)}.{key}"
    assert num_refused > 20


@pytest.mark.parametrize("name", JOBS)
def test_no_value_of_a_job_is_interpreted(name: str) -> None:
    """A hostile value in place of each value is refused by its path, or nothing dangerous is made."""
    job = JOBS[name]
    paths = own_paths(name)
    plain = [path for path in paths if not isinstance(at(job, path), dict | list)]
    num_refused = num_made = 0
    for value in VALUES:
        # All at once; what is not refused is tried by itself.
        refused = refused_paths(with_value_everywhere(job, plain, value))
        for path in paths:
            found = None
            if path not in plain or written(path) not in refused:
                found = dangers_in(with_value_everywhere(job, [path], value))
            assert not found, f"{written(path)} = {value!r}: {found}"
            num_made += found is not None
            num_refused += found is None
    assert num_refused > 3 * num_made
    assert num_made > 0 or name == "third"


@pytest.mark.parametrize("place", ["pod", "container", "rayJob"])
@pytest.mark.parametrize("key", KEYS)
def test_the_checks_find_an_attack_that_succeeds(place: str, key: str) -> None:
    obj = as_served(ONE)
    _, identity = parsed(obj)
    made = made_for(obj, policy=STRICT)
    _put(made[-1][1], place, key, KEYS[key])
    assert list(dangers(made, identity, STRICT))


def _put(ray_job: KubeObject, place: str, key: str, value: Any) -> None:
    pod = next(pod_templates(ray_job))["spec"]
    target = {"pod": pod, "container": pod["containers"][0], "rayJob": ray_job["spec"]}[place]
    # What is there is added to; what is not is new.
    if isinstance(target.get(key), list):
        target[key] = [*target[key], *value]
    else:
        target[key] = value


HOSTILE = st.sampled_from([*VALUES, *KEYS.values()])
OVERLAY = st.dictionaries(
    st.sampled_from([*_POOL["overlay"], *KEYS]),  # type: ignore[misc]
    HOSTILE | st.sampled_from(list(_POOL["overlay"].values())),  # type: ignore[attr-defined]
    max_size=4,
)


@given(valid_jobs(), OVERLAY, st.sampled_from(["head", "gpu"]))
def test_no_overlay_gives_more_than_is_allowed(content: Fields, overlay: Fields, pool: str) -> None:
    spec = content["spec"]
    pools = spec.get("nodePools") or {}
    given_pool = pools.get(pool) or {}
    spec["nodePools"] = pools | {pool: given_pool | {"overlay": (given_pool.get("overlay") or {}) | overlay}}
    assert not dangers_in(content, replace(STRICT, allowed_secrets=frozenset({"*"}), allows_ipc_lock=True))
    assert not dangers_in(content)


def test_a_secret_is_given_only_where_the_settings_name_it() -> None:
    for path, value in (("image", {"pullSecrets": [SECRET]}), ("env", _env(SECRET))):
        job = copy.deepcopy(ONE)
        job["spec"] |= {path: value}
        assert dangers_in(job) is None
        allowed = replace(STRICT, allowed_secrets=frozenset({"mine", SECRET}))
        assert dangers_in(job, allowed) == []
        assert SECRET in str(made_for(as_served(job), policy=allowed)[-1])


def _env(secret: str) -> list[Fields]:
    return [{"name": "A", "secret": {"name": secret, "key": "token"}}]


def test_memory_is_locked_only_where_the_settings_allow_it() -> None:
    job = copy.deepcopy(ONE)
    job["spec"]["nodePools"]["gpu"]["rdma"]["ipcLock"] = True
    assert dangers_in(job) is None
    allowed = replace(STRICT, allows_ipc_lock=True)
    assert dangers_in(job, allowed) == []
    assert "IPC_LOCK" in str(made_for(as_served(job), policy=allowed)[-1])
