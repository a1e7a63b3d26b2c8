"""Rules on `spec.nodePools`, which only a cluster reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from taper_api.base.job_error import Problem
from taper_api.base.quantity import bytes_of, cpus_of
from taper_api.job.spec import RLHFJobSpec
from taper_api.pods.affinity import NodeExpression, NodeTerm
from taper_api.pods.node_pools import CPUS_PER_GPU, Pool
from taper_api.pods.toleration import Toleration
from taper_api.rules.rule import CelRule, Rule

SYSTEM_PRIORITY = "system-"
_POOLS = ("head", "gpu")
_GPU = "self.nodePools.gpu"
_NUM_GPUS = f"(has({_GPU}.gpusPerNode) ? {_GPU}.gpusPerNode : self.training.ranks)"
_CPUS = f"{CPUS_PER_GPU} * {_NUM_GPUS}"
_SCHEDULING = "DuringSchedulingIgnoredDuringExecution"


def _pools(spec: RLHFJobSpec) -> Iterator[tuple[str, Pool]]:
    """Both pools, each with its path."""
    yield "spec.nodePools.head", spec.node_pools.head
    yield "spec.nodePools.gpu", spec.node_pools.gpu


def _of_each_pool(rule: Callable[[str], CelRule]) -> tuple[CelRule, ...]:
    """A CEL rule for the path of each pool."""
    return tuple(rule(f"spec.nodePools.{pool}") for pool in _POOLS)


def _node_pools(spec: RLHFJobSpec) -> Iterator[Problem]:
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


GPU_POOL = Rule(
    text="`nodePools.gpu` agrees with `training.ranks` (or has no GPUs) and with `training.nodes`.",
    check=_node_pools,
    cel=(
        CelRule(
            at="spec",
            rule=f"!has({_GPU}.gpusPerNode) || {_GPU}.gpusPerNode in [0, self.training.ranks]",
            message="spec.nodePools.gpu.gpusPerNode must equal spec.training.ranks, or be 0 where ranks are "
            "CPU processes: leave it out, or give both the same number",
            field_path=".nodePools.gpu.gpusPerNode",
        ),
        CelRule(
            at="spec",
            rule=f"!has({_GPU}.nodes) || {_GPU}.nodes == self.training.nodes",
            message="spec.nodePools.gpu.nodes must equal spec.training.nodes: leave it out, or give both the "
            "same number",
            field_path=".nodePools.gpu.nodes",
        ),
    ),
)


def _cpus(spec: RLHFJobSpec) -> Iterator[Problem]:
    cpu, least = spec.node_pools.gpu.cpu, CPUS_PER_GPU * spec.gpus_per_node
    if cpu is not None and cpus_of(cpu) < least:
        yield Problem(
            path="spec.nodePools.gpu.cpu",
            message=f"{cpu} is not enough for {spec.gpus_per_node} GPUs",
            remedy=f"use {least} or more, or leave it out",
        )


CPUS = Rule(
    text="`nodePools.gpu.cpu` is three or more for each GPU: VeRL asks Ray for as many.",
    check=_cpus,
    cel=(
        CelRule(
            at="spec",
            rule=f"!has({_GPU}.cpu) || (type({_GPU}.cpu) == int ? {_GPU}.cpu >= {_CPUS} : "
            f"!quantity({_GPU}.cpu).isLessThan(quantity('0').add({_CPUS})))",
            message=f"spec.nodePools.gpu.cpu must be {CPUS_PER_GPU} or more for each GPU: raise it",
            field_path=".nodePools.gpu.cpu",
        ),
    ),
)


def _rdma(spec: RLHFJobSpec) -> Iterator[Problem]:
    if spec.node_pools.gpu.rdma is not None and spec.gpus_per_node == 0:
        yield Problem(
            path="spec.nodePools.gpu.rdma",
            message="is set, but the pods have no GPUs",
            remedy="remove it, or set spec.nodePools.gpu.gpusPerNode",
        )


RDMA = Rule(
    text="`nodePools.gpu.rdma` needs GPUs.",
    check=_rdma,
    cel=(
        CelRule(
            at="spec",
            rule=f"!has({_GPU}.rdma) || {_NUM_GPUS} > 0",
            message="spec.nodePools.gpu.rdma needs GPUs: remove it, or set spec.nodePools.gpu.gpusPerNode",
            field_path=".nodePools.gpu.rdma",
        ),
    ),
)


def _shared_memory(spec: RLHFJobSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        if pool.shared_memory is not None and bytes_of(pool.shared_memory) > bytes_of(pool.memory):
            yield Problem(
                path=f"{path}.sharedMemory",
                message=f"{pool.shared_memory} is more than the memory of {pool.memory} that it is part of",
                remedy=f"use at most {path}.memory, or raise that",
            )


def _shared_memory_in_cel(path: str) -> CelRule:
    return CelRule(
        at=path,
        rule="!has(self.sharedMemory) || !quantity(self.sharedMemory).isGreaterThan(quantity(self.memory))",
        message=f"{path}.sharedMemory is part of the memory: use at most {path}.memory, or raise that",
        field_path=".sharedMemory",
    )


SHARED_MEMORY = Rule(
    text="`sharedMemory` of a pool is part of its `memory`.",
    check=_shared_memory,
    cel=_of_each_pool(_shared_memory_in_cel),
)


def _priority(spec: RLHFJobSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        if (pool.priority_class_name or "").startswith(SYSTEM_PRIORITY):
            yield Problem(
                path=f"{path}.priorityClassName",
                message=f"{pool.priority_class_name} is a class of the system",
                remedy=f"use one that does not begin with {SYSTEM_PRIORITY}",
            )


def _priority_in_cel(path: str) -> CelRule:
    return CelRule(
        at=path,
        rule=f"!has(self.priorityClassName) || !self.priorityClassName.startsWith('{SYSTEM_PRIORITY}')",
        message=f"{path}.priorityClassName must not be a class of the system: use one that does not begin "
        f"with {SYSTEM_PRIORITY}",
        field_path=".priorityClassName",
    )


PRIORITY = Rule(
    text="`priorityClassName` is none of the system's own.",
    check=_priority,
    cel=_of_each_pool(_priority_in_cel),
)


def _tolerations(spec: RLHFJobSpec) -> Iterator[Problem]:
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


def _value_in_cel(path: str) -> CelRule:
    return CelRule(
        at=f"{path}.tolerations[]",
        rule="self.operator == 'Equal' || !has(self.value)",
        message=f"{path}.tolerations[].value is for the operator Equal: remove it, or use Equal",
        field_path=".value",
    )


def _toleration_seconds_in_cel(path: str) -> CelRule:
    return CelRule(
        at=f"{path}.tolerations[]",
        rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        message=f"{path}.tolerations[].tolerationSeconds is for the effect NoExecute: remove it, or set "
        "effect to NoExecute",
        field_path=".tolerationSeconds",
    )


TOLERATIONS = Rule(
    text="A toleration has a `value` for `Equal` only, and `tolerationSeconds` for `NoExecute` only.",
    check=_tolerations,
    cel=(*_of_each_pool(_value_in_cel), *_of_each_pool(_toleration_seconds_in_cel)),
)


def _topology(spec: RLHFJobSpec) -> Iterator[Problem]:
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


def _level_in_cel(path: str) -> CelRule:
    return CelRule(
        at=f"{path}.topology",
        rule="has(self.required) != has(self.preferred)",
        message=f"{path}.topology must have either required or preferred: give one of them",
    )


def _queue_in_cel(path: str) -> CelRule:
    field = path.removeprefix("spec")
    return CelRule(
        at="spec",
        rule=f"has(self.kueue) || !has(self{field}.topology)",
        message=f"{path}.topology is read by Kueue: set spec.kueue, or use affinity",
        field_path=f"{field}.topology",
    )


TOPOLOGY = Rule(
    text="A pool's `topology` has either `required` or `preferred`, and needs `spec.kueue`.",
    check=_topology,
    cel=(*_of_each_pool(_level_in_cel), *_of_each_pool(_queue_in_cel)),
)


def _affinity(spec: RLHFJobSpec) -> Iterator[Problem]:
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


def _affinity_in_cel(path: str, term: str) -> CelRule:
    place = f"{path}.affinity.nodeAffinity.{term}.matchExpressions[]"
    return CelRule(
        at=place,
        rule="(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
        message=f"{place}.values is for the operators In and NotIn, which need it: give or remove it, or "
        "change the operator",
        field_path=".values",
    )


AFFINITY = Rule(
    text="A requirement on nodes has `values` with the operators `In` and `NotIn`, and only with them.",
    check=_affinity,
    cel=(
        *_of_each_pool(lambda path: _affinity_in_cel(path, f"required{_SCHEDULING}.nodeSelectorTerms[]")),
        *_of_each_pool(lambda path: _affinity_in_cel(path, f"preferred{_SCHEDULING}[].preference")),
    ),
)

NODE_POOL_RULES: tuple[Rule[RLHFJobSpec], ...] = (
    GPU_POOL,
    CPUS,
    RDMA,
    SHARED_MEMORY,
    PRIORITY,
    TOLERATIONS,
    TOPOLOGY,
    AFFINITY,
)
