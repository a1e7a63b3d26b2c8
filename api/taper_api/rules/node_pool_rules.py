"""Rules on `spec.nodePools`, which only a cluster reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from taper_api.base.quantity import bytes_of, cpus_of
from taper_api.job.spec import RLHFJobSpec
from taper_api.pods.node_pools import CPUS_PER_GPU, Pool
from taper_api.rules.rule import Constraint, Rule, rule_of

SYSTEM_PRIORITY = "system-"
_POOLS = ("head", "gpu")
_GPU = "self.nodePools.gpu"
_NUM_GPUS = f"(has({_GPU}.gpusPerNode) ? {_GPU}.gpusPerNode : self.training.ranks)"
_CPUS = f"{CPUS_PER_GPU} * {_NUM_GPUS}"
_SCHEDULING = "DuringSchedulingIgnoredDuringExecution"
_NODE_TERMS = (f"required{_SCHEDULING}.nodeSelectorTerms[]", f"preferred{_SCHEDULING}[].preference")

GPU_POOL = rule_of(
    "`nodePools.gpu` agrees with `training.ranks` (or has no GPUs) and with `training.nodes`.",
    Constraint(
        at="spec",
        field="nodePools.gpu.gpusPerNode",
        holds=lambda spec: spec.gpus_per_node in (0, spec.training.ranks),
        cel=f"!has({_GPU}.gpusPerNode) || {_GPU}.gpusPerNode in [0, self.training.ranks]",
        message="must equal spec.training.ranks, or be 0 where ranks are CPU processes",
        remedy="leave it out, or give both the same number",
        detail=lambda spec: f"is {spec.gpus_per_node}, but spec.training.ranks is {spec.training.ranks}",
    ),
    Constraint(
        at="spec",
        field="nodePools.gpu.nodes",
        holds=lambda spec: spec.node_pools.gpu.nodes in (None, spec.training.nodes),
        cel=f"!has({_GPU}.nodes) || {_GPU}.nodes == self.training.nodes",
        message="must equal spec.training.nodes",
        remedy="leave it out, or give both the same number",
        detail=lambda spec: (
            f"is {spec.node_pools.gpu.nodes}, but spec.training.nodes is {spec.training.nodes}"
        ),
    ),
)


def _least_cpus(spec: RLHFJobSpec) -> int:
    """What VeRL asks Ray for."""
    return CPUS_PER_GPU * spec.gpus_per_node


CPUS = rule_of(
    "`nodePools.gpu.cpu` is three or more for each GPU: VeRL asks Ray for as many.",
    Constraint(
        at="spec",
        field="nodePools.gpu.cpu",
        holds=lambda spec: (
            spec.node_pools.gpu.cpu is None or cpus_of(spec.node_pools.gpu.cpu) >= _least_cpus(spec)
        ),
        cel=f"!has({_GPU}.cpu) || (type({_GPU}.cpu) == int ? {_GPU}.cpu >= {_CPUS} : "
        f"!quantity({_GPU}.cpu).isLessThan(quantity('0').add({_CPUS})))",
        message=f"must be {CPUS_PER_GPU} or more for each GPU",
        remedy="raise it",
        detail=lambda spec: f"{spec.node_pools.gpu.cpu} is not enough for {spec.gpus_per_node} GPUs",
        hint=lambda spec: f"use {_least_cpus(spec)} or more, or leave it out",
    ),
)
RDMA = rule_of(
    "`nodePools.gpu.rdma` needs GPUs.",
    Constraint(
        at="spec",
        field="nodePools.gpu.rdma",
        holds=lambda spec: spec.node_pools.gpu.rdma is None or spec.gpus_per_node > 0,
        cel=f"!has({_GPU}.rdma) || {_NUM_GPUS} > 0",
        message="is set, but the pods have no GPUs",
        remedy="remove it, or set spec.nodePools.gpu.gpusPerNode",
    ),
)


def _of_each_pool(*constraints: Constraint) -> Iterator[Constraint]:
    """Each constraint for both pools; the paths of `constraints` begin below a pool."""
    for constraint in constraints:
        for pool in _POOLS:
            yield dataclasses.replace(constraint, at=f"spec.nodePools.{pool}{constraint.at}")


def _is_within_memory(pool: Pool) -> bool:
    return pool.shared_memory is None or bytes_of(pool.shared_memory) <= bytes_of(pool.memory)


SHARED_MEMORY = rule_of(
    "`sharedMemory` of a pool is part of its `memory`.",
    *_of_each_pool(
        Constraint(
            at="",
            field="sharedMemory",
            holds=_is_within_memory,
            cel="!has(self.sharedMemory) || "
            "!quantity(self.sharedMemory).isGreaterThan(quantity(self.memory))",
            message="is more than the memory that it is part of",
            remedy="use at most the pool's memory, or raise that",
            detail=lambda pool: (
                f"{pool.shared_memory} is more than the memory of {pool.memory} that it is part of"
            ),
        )
    ),
)
PRIORITY = rule_of(
    "`priorityClassName` is none of the system's own.",
    *_of_each_pool(
        Constraint(
            at="",
            field="priorityClassName",
            holds=lambda pool: not (pool.priority_class_name or "").startswith(SYSTEM_PRIORITY),
            cel=f"!has(self.priorityClassName) || !self.priorityClassName.startsWith('{SYSTEM_PRIORITY}')",
            message="must not be a class of the system",
            remedy=f"use one that does not begin with {SYSTEM_PRIORITY}",
        )
    ),
)
TOLERATIONS = rule_of(
    "A toleration has a `value` for `Equal` only, and `tolerationSeconds` for `NoExecute` only.",
    *_of_each_pool(
        Constraint(
            at=".tolerations[]",
            field="value",
            holds=lambda toleration: toleration.operator == "Equal" or toleration.value is None,
            cel="self.operator == 'Equal' || !has(self.value)",
            message="is set, but the operator is Exists",
            remedy="remove it, or use Equal",
        ),
        Constraint(
            at=".tolerations[]",
            field="tolerationSeconds",
            holds=lambda toleration: (
                toleration.toleration_seconds is None or toleration.effect == "NoExecute"
            ),
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="is set, but the effect is not NoExecute",
            remedy="remove it, or set effect to NoExecute",
        ),
    ),
)


def _topology_and_queue(pool: str) -> Constraint:
    return Constraint(
        at="spec",
        field=f"nodePools.{pool}.topology",
        holds=lambda spec: spec.kueue is not None or getattr(spec.node_pools, pool).topology is None,
        cel=f"has(self.kueue) || !has(self.nodePools.{pool}.topology)",
        message="is read by Kueue, but the job waits in no queue of it",
        remedy="set spec.kueue.queueName, or use affinity",
    )


TOPOLOGY = rule_of(
    "A pool's `topology` has either `required` or `preferred`, and needs `spec.kueue`.",
    *_of_each_pool(
        Constraint(
            at=".topology",
            holds=lambda topology: (topology.required is None) != (topology.preferred is None),
            cel="has(self.required) != has(self.preferred)",
            message="must have either required or preferred",
            remedy="give one of them",
        )
    ),
    *(_topology_and_queue(pool) for pool in _POOLS),
)
AFFINITY = rule_of(
    "A requirement on nodes has `values` with the operators `In` and `NotIn`, and only with them.",
    *_of_each_pool(
        *(
            Constraint(
                at=f".affinity.nodeAffinity.{terms}.matchExpressions[]",
                field="values",
                holds=lambda term: (term.operator in ("In", "NotIn")) == (len(term.values) > 0),
                cel="(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
                message="is for the operators In and NotIn, which need it",
                remedy="give or remove it, or change the operator",
                detail=lambda term: (
                    f"is {'set' if term.values else 'empty'}, but the operator is {term.operator}"
                ),
            )
            for terms in _NODE_TERMS
        )
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
