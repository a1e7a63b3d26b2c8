"""What an API server checks of the fields that only a cluster reads: `pod_contradictions` in CEL."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.quantity import MAX_CPUS
from taper_api.pods.node_pools import CPUS_PER_GPU
from taper_api.rules.cel_rule import FIELD, CelRule
from taper_api.rules.pod_contradictions import RESERVED_VARIABLES, SYSTEM_PRIORITY

_GPU = "self.nodePools.gpu"
_NUM_GPUS = f"(has({_GPU}.gpusPerNode) ? {_GPU}.gpusPerNode : self.training.ranks)"
_CPUS = f"{CPUS_PER_GPU} * {_NUM_GPUS}"
_NODES = "affinity.nodeAffinity"
_SCHEDULING = "DuringSchedulingIgnoredDuringExecution"


def pod_rules() -> Iterator[CelRule]:
    """The rules of `nodePools`, `volumes` and `env`."""
    yield from _gpus()
    for pool in ("head", "gpu"):
        yield from _pool(f"spec.nodePools.{pool}")
    yield from _topology_needs_kueue()
    yield from _environment()
    yield from _volumes()


def _gpus() -> Iterator[CelRule]:
    yield CelRule(
        at="spec",
        rule=f"!has({_GPU}.gpusPerNode) || {_GPU}.gpusPerNode in [0, self.training.ranks]",
        message="spec.nodePools.gpu.gpusPerNode must equal spec.training.ranks, or be 0 where ranks are CPU "
        "processes: leave it out, or give both the same number",
        twin="node_pools",
        field_path=".nodePools.gpu.gpusPerNode",
    )
    yield CelRule(
        at="spec",
        rule=f"!has({_GPU}.nodes) || {_GPU}.nodes == self.training.nodes",
        message="spec.nodePools.gpu.nodes must equal spec.training.nodes: leave it out, or set it so",
        twin="node_pools",
        field_path=".nodePools.gpu.nodes",
    )
    yield CelRule(
        at="spec",
        rule=f"!has({_GPU}.cpu) || (type({_GPU}.cpu) == int ? {_GPU}.cpu >= {_CPUS} : "
        f"!quantity({_GPU}.cpu).isLessThan(quantity('0').add({_CPUS})))",
        message=f"spec.nodePools.gpu.cpu must be {CPUS_PER_GPU} or more for each GPU: raise it",
        twin="cpus",
        field_path=".nodePools.gpu.cpu",
    )
    yield CelRule(
        at="spec",
        rule=f"!has({_GPU}.rdma) || {_NUM_GPUS} > 0",
        message="spec.nodePools.gpu.rdma needs GPUs: remove it, or set spec.nodePools.gpu.gpusPerNode",
        twin="rdma",
        field_path=".nodePools.gpu.rdma",
    )


def _pool(path: str) -> Iterator[CelRule]:
    yield CelRule(
        at=f"{path}.cpu",
        # Of a text the schema's pattern says so.
        rule=f"type(self) != int || (self > 0 && self < {MAX_CPUS})",
        message=f"{path}.cpu must be a number of CPUs above zero: write it like 16 or 1500m",
        twin=FIELD,
    )
    yield CelRule(
        at=path,
        rule="!has(self.sharedMemory) || !quantity(self.sharedMemory).isGreaterThan(quantity(self.memory))",
        message=f"{path}.sharedMemory is part of the memory: use at most {path}.memory, or raise that",
        twin="shared_memory",
        field_path=".sharedMemory",
    )
    yield CelRule(
        at=path,
        rule=f"!has(self.priorityClassName) || !self.priorityClassName.startsWith('{SYSTEM_PRIORITY}')",
        message=f"{path}.priorityClassName must not be a class of the system: use one that does not begin "
        f"with {SYSTEM_PRIORITY}",
        twin="priority",
        field_path=".priorityClassName",
    )
    yield CelRule(
        at=f"{path}.tolerations[]",
        rule="self.operator == 'Equal' || !has(self.value)",
        message=f"{path}.tolerations[].value is for the operator Equal: remove it, or use Equal",
        twin="tolerations",
        field_path=".value",
    )
    yield CelRule(
        at=f"{path}.tolerations[]",
        rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        message=f"{path}.tolerations[].tolerationSeconds is for the effect NoExecute: remove it, or set "
        "effect to NoExecute",
        twin="tolerations",
        field_path=".tolerationSeconds",
    )
    yield CelRule(
        at=f"{path}.topology",
        rule="has(self.required) != has(self.preferred)",
        message=f"{path}.topology must have either required or preferred: give one of them",
        twin="topology",
    )
    for term in (f"required{_SCHEDULING}.nodeSelectorTerms[]", f"preferred{_SCHEDULING}[].preference"):
        place = f"{path}.{_NODES}.{term}.matchExpressions[]"
        yield CelRule(
            at=place,
            rule="(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
            message=f"{place}.values is for the operators In and NotIn, which need it: give or remove it, or "
            "change the operator",
            twin="affinity",
            field_path=".values",
        )


def _topology_needs_kueue() -> Iterator[CelRule]:
    for pool in ("head", "gpu"):
        yield CelRule(
            at="spec",
            rule=f"has(self.kueue) || !has(self.nodePools.{pool}.topology)",
            message=f"spec.nodePools.{pool}.topology is read by Kueue: set spec.kueue, or use affinity",
            twin="topology",
            field_path=f".nodePools.{pool}.topology",
        )


def _environment() -> Iterator[CelRule]:
    yield CelRule(
        at="spec.env[]",
        rule="has(self.value) != has(self.secret)",
        message="spec.env[] must have either a value or a secret: give one of them",
        twin="environment",
    )
    for prefix in RESERVED_VARIABLES:
        yield CelRule(
            at="spec.env[]",
            rule=f"!self.name.startsWith('{prefix}')",
            message=f"spec.env[].name must not begin with {prefix}, for those are not the job's to set: use "
            "another name",
            twin="environment",
            field_path=".name",
        )


def _volumes() -> Iterator[CelRule]:
    checkpoints, cache = "spec.volumes.checkpoints", "spec.volumes.modelCache"
    yield CelRule(
        at=checkpoints,
        rule="has(self.claimName) != has(self.size)",
        message=f"{checkpoints} must have either claimName or size: name a claim, or give a size",
        twin="checkpoints_volume",
    )
    yield CelRule(
        at=checkpoints,
        rule="!has(self.storageClassName) || has(self.size)",
        message=f"{checkpoints}.storageClassName is of a claim that is made: remove it, or give a size "
        "instead of claimName",
        twin="checkpoints_volume",
        field_path=".storageClassName",
    )
    yield CelRule(
        at=cache,
        rule="!has(self.size) || !has(self.claimName)",
        message=f"{cache}.size is of a directory of the pod, for a claim has a size of its own: remove it",
        twin="model_cache",
        field_path=".size",
    )
    yield CelRule(
        at=cache,
        rule="!has(self.subPath) || has(self.claimName)",
        message=f"{cache}.subPath is of a claim: remove it, or name a claim",
        twin="model_cache",
        field_path=".subPath",
    )
    yield from _mounts()


def _mounts() -> Iterator[CelRule]:
    remedy = "give each a mountPath of its own"
    yield CelRule(
        at="spec.volumes",
        rule="self.data.all(v, self.data.exists_one(w, (w.mountPath + '/').startsWith(v.mountPath + '/')))",
        message=f"spec.volumes.data must not be mounted at or under each other: {remedy}",
        twin="mounts",
        field_path=".data",
    )
    for name in ("checkpoints", "modelCache"):
        mount = f"self.{name}.mountPath"
        yield CelRule(
            at="spec.volumes",
            rule=f"!has(self.{name}) || self.data.all(v, {_apart('v.mountPath', mount)})",
            message=f"spec.volumes.{name} must not be mounted at, over or under one of "
            f"spec.volumes.data: {remedy}",
            twin="mounts",
            field_path=f".{name}",
        )
    yield CelRule(
        at="spec.volumes",
        rule="!has(self.checkpoints) || !has(self.modelCache) || "
        f"({_apart('self.checkpoints.mountPath', 'self.modelCache.mountPath')})",
        message=f"spec.volumes.modelCache must not be mounted at, over or under the checkpoints: {remedy}",
        twin="mounts",
        field_path=".modelCache",
    )


def _apart(one: str, two: str) -> str:
    """Neither of two paths lies at or under the other."""
    return f"!({one} + '/').startsWith({two} + '/') && !({two} + '/').startsWith({one} + '/')"
