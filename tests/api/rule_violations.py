"""For each rule in CEL, a job that breaks it: by the beginning of the rule's message.

The values are put into `FULL` at dotted paths; `GONE` takes a field out.
"""

from __future__ import annotations

import copy
from typing import Any

from taper_api.rules.verl_rules import SETTLED_BY_FIELD, SETTLED_GROUPS

GONE = object()

FULL: dict[str, Any] = {
    "apiVersion": "taper.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "full", "namespace": "default"},
    "spec": {
        "model": {"path": "some/model"},
        "data": {"train": ["train.parquet"]},
        "reward": {"function": "exact-match"},
        "training": {"steps": 3, "batchPrompts": 8, "ranks": 4},
        "rollout": {"footprint": 4, "samplesPerPrompt": 4, "responseTokens": 128},
        "nodePools": {"head": {"memory": "8Gi"}, "gpu": {"gpusPerNode": 4, "memory": "64Gi"}},
        "volumes": {"checkpoints": {"claimName": "saved"}, "modelCache": {}},
    },
}

_NODES = "affinity.nodeAffinity"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_BAD_TERM = {"matchExpressions": [{"key": "a", "operator": "In"}]}


def broken(changes: dict[str, Any], base: dict[str, Any] = FULL) -> dict[str, Any]:
    """A copy of a job with the changes made."""
    job = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split("/") if "/" in path else path.split(".")
        block = job
        for parent in parents:
            block = block.setdefault(parent, {})
        if value is GONE:
            del block[last]
        else:
            block[last] = value
    return job


def _data(path: str) -> dict[str, Any]:
    return {"claimName": "data", "mountPath": path}


def _schedule(*points: tuple[int, int]) -> dict[str, Any]:
    steps = [{"tokens": tokens, "degree": degree} for tokens, degree in points]
    return {"spec.rollout.policy": {"name": "schedule", "schedule": steps}}


def _pool_violations(pool: str) -> dict[str, dict[str, Any]]:
    path = f"spec.nodePools.{pool}"
    kueue = {"spec.kueue": {"queueName": "a"}}
    nodes = f"{path}.{_NODES}"
    return {
        f"{path}.cpu must be a number": {f"{path}.cpu": -1},
        f"{path}.sharedMemory": {f"{path}.sharedMemory": "1Ti"},
        f"{path}.priorityClassName": {f"{path}.priorityClassName": "system-node-critical"},
        f"{path}.tolerations[].value": {
            f"{path}.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]
        },
        f"{path}.tolerations[].tolerationSeconds": {
            f"{path}.tolerations": [{"key": "a", "tolerationSeconds": 3}]
        },
        f"{path}.topology must have": {**kueue, f"{path}.topology": {}},
        f"{path}.topology is read": {f"{path}.topology": {"required": "a"}},
        f"{nodes}.{_REQUIRED}.": {nodes: {_REQUIRED: {"nodeSelectorTerms": [_BAD_TERM]}}},
        f"{nodes}.{_PREFERRED}[]": {nodes: {_PREFERRED: [{"weight": 1, "preference": _BAD_TERM}]}},
    }


def _verl_violations() -> dict[str, dict[str, Any]]:
    settled = {f"spec.verl['{name}'] is set": {"spec/verl": {name: 1}} for name in SETTLED_BY_FIELD}
    groups = {
        f"spec.verl['{name}'] holds": {"spec/verl": {name: {"other": 1}}} for name in sorted(SETTLED_GROUPS)
    }
    return settled | groups


VIOLATIONS: dict[str, dict[str, Any]] = {
    "metadata.name": {"metadata.name": "a" * 43},
    "spec.rollout.degrees must end": {"spec.rollout.degrees": [1, 2]},
    "spec.rollout.degrees must ascend": {"spec.rollout.degrees": [2, 1, 4]},
    "spec.training.ranks": {
        "spec.training.ranks": 6,
        "spec.nodePools.gpu": {},
        "spec.training.batchPrompts": 6,
    },
    "spec.rollout.kvTokens": {"spec.rollout.kvTokens": 639},
    "spec.rollout.metrics.port": {"spec.rollout.port": 9000, "spec.rollout.metrics": {"port": 9000}},
    "spec.algorithm.miniBatchPrompts": {
        "spec.algorithm.miniBatchPrompts": 3,
        "spec.rollout.samplesPerPrompt": 8,
    },
    "spec.training.batchPrompts": {"spec.training.batchPrompts": 3, "spec.rollout.samplesPerPrompt": 3},
    "spec.rollout.samplesPerPrompt": {"spec.rollout.samplesPerPrompt": 1},
    "spec.training.validation.everySteps": {"spec.training.validation": {"everySteps": 1}},
    "spec.training.validation.before": {"spec.training.validation": {"before": True}},
    "spec.training.checkpoints.keep": {"spec.training.checkpoints": {"keep": 1}},
    "spec.rollout.sampling.topK": {"spec.rollout.sampling": {"topK": 0}},
    "spec.rollout.policy.predictor": {"spec.rollout.policy": {"name": "widen-at-once", "predictor": {}}},
    "spec.rollout.policy.threshold": {"spec.rollout.policy": {"name": "threshold"}},
    "spec.rollout.policy.schedule must be given": {"spec.rollout.policy": {"name": "schedule"}},
    "spec.rollout.policy.schedule may only": _schedule((8, 8)),
    "spec.rollout.policy.schedule must change": _schedule((8, 2), (9, 2)),
    "spec.rollout.policy.schedule must ascend": _schedule((8, 2), (8, 4)),
    "spec.rollout.policy.schedule must end": _schedule((128, 2)),
    **_verl_violations(),
    "spec.nodePools.gpu.gpusPerNode": {"spec.nodePools.gpu.gpusPerNode": 8},
    "spec.nodePools.gpu.nodes": {"spec.nodePools.gpu.nodes": 2},
    "spec.nodePools.gpu.cpu must be 3": {"spec.nodePools.gpu.cpu": "11999m"},
    "spec.nodePools.gpu.rdma": {
        "spec.nodePools.gpu.rdma": {"resource": "rdma/a"},
        "spec.nodePools.gpu.gpusPerNode": 0,
    },
    **_pool_violations("head"),
    **_pool_violations("gpu"),
    "spec.env[] must have": {"spec.env": [{"name": "A"}]},
    "spec.env[].name must not begin with RAY_": {"spec.env": [{"name": "RAY_ADDRESS", "value": ""}]},
    "spec.env[].name must not begin with TAPER_": {"spec.env": [{"name": "TAPER_X", "value": ""}]},
    "spec.volumes.checkpoints must have": {"spec.volumes.checkpoints.claimName": GONE},
    "spec.volumes.checkpoints.storageClassName": {"spec.volumes.checkpoints.storageClassName": "fast"},
    "spec.volumes.modelCache.size": {"spec.volumes.modelCache": {"size": "1Gi", "claimName": "cache"}},
    "spec.volumes.modelCache.subPath": {"spec.volumes.modelCache": {"subPath": "hub"}},
    "spec.volumes.data must not": {"spec.volumes.data": [_data("/mnt/a"), _data("/mnt/a")]},
    "spec.volumes.checkpoints must not": {"spec.volumes.data": [_data("/mnt/checkpoints/a")]},
    "spec.volumes.modelCache must not be mounted at, over or under one": {
        "spec.volumes.data": [_data("/mnt/models")]
    },
    "spec.volumes.modelCache must not be mounted at, over or under the": {
        "spec.volumes.modelCache.mountPath": "/mnt/checkpoints/models"
    },
}

# Of each field that cannot change as it is, another value that is right by itself.
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"spec.model.path": "other/model"},
    "data": {"spec.data.train": ["other.parquet"]},
    "reward": {"spec.reward.function": "math"},
    "algorithm": {"spec.algorithm": {"learningRate": 1}},
    "training": {"spec.training.steps": 4},
    "rollout": {"spec.rollout.mode": "off"},
    "verl": {"spec/verl": {"trainer.logger": ["console"]}},
    "volumes": {"spec.volumes.checkpoints.claimName": "other"},
    "submissionMode": {"spec.submissionMode": "K8sJobMode"},
    "managedBy": {"spec.managedBy": "example.com/other"},
    "image": {"spec.image": {"name": "other"}},
    "env": {"spec.env": [{"name": "A", "value": "b"}]},
    "nodePools": {"spec.nodePools.gpu.nodeSelector": {"a": "b"}},
    "kueue": {"spec.kueue": {"queueName": "other"}},
}
