"""Rules between the fields of a job that only a cluster reads.

As in `contradictions`: each is a pure generator from the spec to its problems, and its
docstring is its line in the configuration reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from taper_api.base.job_error import Problem
from taper_api.base.quantity import bytes_of, cpus_of
from taper_api.job.spec import RLHFJobSpec
from taper_api.pods.affinity import NodeExpression, NodeTerm
from taper_api.pods.node_pools import CPUS_PER_GPU, Pool
from taper_api.pods.toleration import Toleration

RESERVED_VARIABLES = ("RAY_", "TAPER_")
SYSTEM_PRIORITY = "system-"


def _node_pools(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`nodePools.gpu` agrees with `training.ranks` (or has no GPUs) and with `training.nodes`."""
    gpu, training = spec.node_pools.gpu, spec.training
    pairs = {
        "gpusPerNode": ("ranks", gpu.gpus_per_node or None, training.ranks),
        "nodes": ("nodes", gpu.nodes, training.nodes),
    }
    for name, (counterpart, has, wants) in pairs.items():
        if has is not None and has != wants:
            yield Problem(
                path=f"spec.nodePools.gpu.{name}",
                message=f"is {has}, but spec.training.{counterpart} is {wants}",
                remedy="leave it out, or give both the same number",
            )


def _cpus(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`nodePools.gpu.cpu` is three or more for each GPU: VeRL asks Ray for as many."""
    cpu, least = spec.node_pools.gpu.cpu, CPUS_PER_GPU * spec.gpus_per_node
    if cpu is not None and cpus_of(cpu) < least:
        yield Problem(
            path="spec.nodePools.gpu.cpu",
            message=f"{cpu} is not enough for {spec.gpus_per_node} GPUs",
            remedy=f"use {least} or more, or leave it out",
        )


def _shared_memory(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`sharedMemory` of a pool is part of its `memory`."""
    for path, pool in _pools(spec):
        if pool.shared_memory is not None and bytes_of(pool.shared_memory) > bytes_of(pool.memory):
            yield Problem(
                path=f"{path}.sharedMemory",
                message=f"{pool.shared_memory} is more than the memory of {pool.memory} that it is part of",
                remedy=f"use at most {path}.memory, or raise that",
            )


def _rdma(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`nodePools.gpu.rdma` needs GPUs."""
    if spec.node_pools.gpu.rdma is not None and spec.gpus_per_node == 0:
        yield Problem(
            path="spec.nodePools.gpu.rdma",
            message="is set, but the pods have no GPUs",
            remedy="remove it, or set spec.nodePools.gpu.gpusPerNode",
        )


def _tolerations(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A toleration has a `value` for `Equal` only, and `tolerationSeconds` for `NoExecute` only."""
    for path, pool in _pools(spec):
        for index, toleration in enumerate(pool.tolerations):
            yield from _toleration(f"{path}.tolerations[{index}]", toleration)


def _toleration(path: str, toleration: Toleration) -> Iterator[Problem]:
    if toleration.operator == "Exists" and toleration.value is not None:
        yield Problem(
            path=f"{path}.value",
            message="is set, but the operator is Exists",
            remedy="remove it, or use Equal",
        )
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        yield Problem(
            path=f"{path}.tolerationSeconds",
            message="is set, but the effect is not NoExecute",
            remedy="remove it, or set effect to NoExecute",
        )


def _affinity(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A requirement on nodes has `values` with the operators `In` and `NotIn`, and only with them."""
    for pool_path, pool in _pools(spec):
        for path, expression in _expressions(f"{pool_path}.affinity.nodeAffinity", pool):
            if expression.operator in ("In", "NotIn") and not expression.values:
                yield Problem(
                    path=f"{path}.values",
                    message=f"is empty, but the operator is {expression.operator}",
                    remedy="list the values, or use Exists or DoesNotExist",
                )
            if expression.operator not in ("In", "NotIn") and expression.values:
                yield Problem(
                    path=f"{path}.values",
                    message=f"is set, but the operator is {expression.operator}",
                    remedy="remove it, or use In or NotIn",
                )


def _expressions(path: str, pool: Pool) -> Iterator[tuple[str, NodeExpression]]:
    """Every requirement on nodes, with its path."""
    nodes = pool.affinity.node_affinity if pool.affinity is not None else None
    if nodes is None:
        return
    required = nodes.required_during_scheduling_ignored_during_execution
    terms: list[tuple[str, NodeTerm]] = []
    for index, term in enumerate(required.node_selector_terms if required is not None else ()):
        place = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
        terms.append((f"{path}.{place}[{index}]", term))
    for index, preferred in enumerate(nodes.preferred_during_scheduling_ignored_during_execution):
        place = "preferredDuringSchedulingIgnoredDuringExecution"
        terms.append((f"{path}.{place}[{index}].preference", preferred.preference))
    for term_path, term in terms:
        for index, expression in enumerate(term.match_expressions):
            yield f"{term_path}.matchExpressions[{index}]", expression


def _topology(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A pool's `topology` has either `required` or `preferred`, and needs `spec.kueue`."""
    for path, pool in _pools(spec):
        if pool.topology is None:
            continue
        if (pool.topology.required is None) == (pool.topology.preferred is None):
            yield Problem(
                path=f"{path}.topology",
                message="has both required and preferred, or neither",
                remedy="give one of them",
            )
        if spec.kueue is None:
            yield Problem(
                path=f"{path}.topology",
                message="is read by Kueue, but the job waits in no queue of it",
                remedy="set spec.kueue.queueName, or use affinity",
            )


def _priority(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`priorityClassName` is none of the system's own."""
    for path, pool in _pools(spec):
        if (pool.priority_class_name or "").startswith(SYSTEM_PRIORITY):
            yield Problem(
                path=f"{path}.priorityClassName",
                message=f"{pool.priority_class_name} is a class of the system",
                remedy=f"use one that does not begin with {SYSTEM_PRIORITY}",
            )


def _environment(spec: RLHFJobSpec) -> Iterator[Problem]:
    """A variable of `env` has either a `value` or a `secret`, and a name of its own: none of Ray's or
    Taper's."""
    seen = set()
    for index, variable in enumerate(spec.env):
        path = f"spec.env[{index}]"
        if (variable.value is None) == (variable.secret is None):
            yield Problem(
                path=path, message="has both a value and a secret, or neither", remedy="give one of them"
            )
        if variable.name.startswith(RESERVED_VARIABLES):
            yield Problem(
                path=f"{path}.name",
                message=f"{variable.name} is for Ray or Taper to set",
                remedy=f"use a name that begins with neither {' nor '.join(RESERVED_VARIABLES)}",
            )
        if variable.name in seen:
            yield Problem(
                path=f"{path}.name", message=f"{variable.name} is given twice", remedy="remove one of them"
            )
        seen.add(variable.name)


def _checkpoints_volume(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`volumes.checkpoints` has either `claimName` or `size`; a storage class only with `size`."""
    volume, path = spec.volumes.checkpoints, "spec.volumes.checkpoints"
    if volume is None:
        return
    if (volume.claim_name is None) == (volume.size is None):
        yield Problem(
            path=path,
            message="has both claimName and size, or neither",
            remedy="name a claim, or give a size",
        )
    if volume.storage_class_name is not None and volume.size is None:
        yield Problem(
            path=f"{path}.storageClassName",
            message="is set, but no claim is made",
            remedy="remove it, or give a size instead of claimName",
        )


def _mounts(spec: RLHFJobSpec) -> Iterator[Problem]:
    """No volume is mounted at or under another one's `mountPath`."""
    volumes = spec.volumes
    mounts = [(f"spec.volumes.data[{index}]", volume.mount_path) for index, volume in enumerate(volumes.data)]
    if volumes.checkpoints is not None:
        mounts.append(("spec.volumes.checkpoints", volumes.checkpoints.mount_path))
    if volumes.model_cache is not None:
        mounts.append(("spec.volumes.modelCache", volumes.model_cache.mount_path))
    for index, (path, mount) in enumerate(mounts):
        others = mounts[:index] + mounts[index + 1 :]
        above = [other for other, place in others if f"{mount}/".startswith(f"{place}/")]
        if above:
            yield Problem(
                path=f"{path}.mountPath",
                message=f"{mount} lies at or under {above[0]}.mountPath",
                remedy="use a path of its own",
            )


def _model_cache(spec: RLHFJobSpec) -> Iterator[Problem]:
    """`volumes.modelCache` has no `size` or no `claimName`; `subPath` is of a claim."""
    volume, path = spec.volumes.model_cache, "spec.volumes.modelCache"
    if volume is None:
        return
    if volume.claim_name is not None and volume.size is not None:
        yield Problem(
            path=f"{path}.size", message="is set, but a claim has a size of its own", remedy="remove it"
        )
    if volume.claim_name is None and volume.sub_path is not None:
        yield Problem(
            path=f"{path}.subPath",
            message="is set, but there is no claim",
            remedy="remove it, or name a claim",
        )


def _pools(spec: RLHFJobSpec) -> Iterator[tuple[str, Pool]]:
    yield "spec.nodePools.head", spec.node_pools.head
    yield "spec.nodePools.gpu", spec.node_pools.gpu


POD_RULES: tuple[Callable[[RLHFJobSpec], Iterator[Problem]], ...] = (
    _node_pools,
    _cpus,
    _shared_memory,
    _rdma,
    _tolerations,
    _affinity,
    _topology,
    _priority,
    _environment,
    _checkpoints_volume,
    _mounts,
    _model_cache,
)
