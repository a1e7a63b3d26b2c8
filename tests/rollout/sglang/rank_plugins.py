"""Loaded in each rank before its stacks are built: lets a test call a function in every rank.

A function gets the rank's stacks. What it breaks, `mend` makes good again. The command `inspect` gives
facts about memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_mending: list[Callable[[], None]] = []
_trace: list[list[Any]] = []
_peaks: list[int] = []


def install() -> None:
    """Add the commands `call` and `inspect`, and measure the memory that building a wide stack takes."""
    from taper_rollout.sglang import stacks as stacks_module
    from taper_rollout.sglang.rank_stacks import RankStacks

    built_of_views = stacks_module._built_of_views

    @contextlib.contextmanager
    def measured(*arguments: Any) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = memory_bytes("VmRSS")
        with built_of_views(*arguments):
            yield
        _peaks.append(memory_bytes("VmHWM") - before)

    stacks_module._built_of_views = measured
    obey = RankStacks.obey

    def obey_or_call(self: Any, command: Any) -> dict[str, Any]:
        if command.name == "inspect":
            return inspect(self)
        if command.name != "call":
            return obey(self, command)
        arguments = dict(command.arguments)
        function = getattr(sys.modules[__name__], arguments.pop("function"))
        return function(self, **arguments) or {}

    RankStacks.obey = obey_or_call  # type: ignore[method-assign]


def memory_bytes(field: str) -> int:
    """A field of this process's memory, as the kernel reports it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


def inspect(stacks: Any) -> dict[str, Any]:
    """This rank's memory, and what its stacks share."""
    built = stacks._stacks.values()
    pools = [one.runner.token_to_kv_pool for one in built]
    base_model = stacks.base.runner.model
    return {
        "pid": os.getpid(),
        "arena_bytes": storage_bytes(pools[0]),
        "all_pools_bytes": storage_bytes(*pools),
        "weight_bytes": sum(p.nbytes for p in base_model.parameters()),
        "private_weight_bytes": {
            str(one.degree): private_bytes(one.runner.model, base_model)
            for one in built
            if one is not stacks.base
        },
    }


def storage_bytes(*pools: Any) -> int:
    """Bytes of distinct memory behind these pools: equal for one pool and for all views of it."""
    storages = [b.untyped_storage() for pool in pools for b in (*pool.k_buffer, *pool.v_buffer)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def private_bytes(wide: Any, base: Any) -> int:
    """Bytes of the wide model's tensors that do not lie in the base model's storage: must be zero."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in _tensors(base)}
    return sum(t.nbytes for t in _tensors(wide) if t.untyped_storage().data_ptr() not in owned)


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()
    for layer in model.modules():
        yield from getattr(getattr(layer, "quant_method", None), "weights", ())


def building_peaks(_: Any) -> dict[str, Any]:
    """Most bytes that building each wide stack took at a time, beyond what the process had."""
    return {"bytes": list(_peaks)}


def fail_in_rank_1() -> None:
    """A rank that cannot be built, while its peers can."""
    from taper_rollout.sglang.rank_stacks import RankStacks

    build = RankStacks.__init__

    def build_or_fail(self: Any, *, rank: int, **arguments: Any) -> None:
        if rank == 1:
            raise OSError("no room for rank 1")
        build(self, rank=rank, **arguments)

    RankStacks.__init__ = build_or_fail  # type: ignore[method-assign]


def replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute until `mend`."""
    before = getattr(owner, name)
    _mending.append(lambda: setattr(owner, name, before))
    setattr(owner, name, value)


def mend(_: Any) -> None:
    """Undo what the functions below broke, last first."""
    while _mending:
        _mending.pop()()


# -- what a check must notice --------------------------------------------------------------


def take_wrong_heads(_: Any) -> None:
    """Migrated KV of the right size from the wrong heads."""
    from taper_rollout.sglang import kv_exchange

    picks = kv_exchange.picks

    def wrong(plan: Any, *arguments: Any) -> Any:
        # Of a source's heads when widening, into the target's when narrowing: those are cut in parts.
        name = "heads" if plan.to_degree > plan.from_degree else "into_heads"
        chosen = []
        for pick in picks(plan, *arguments):
            part = getattr(pick, name)
            size = part.stop - part.start
            start = part.start - size if part.start else size
            chosen.append(dataclasses.replace(pick, **{name: slice(start, start + size)}))
        return chosen

    replace(kv_exchange, "picks", wrong)


def copy_weights(stacks: Any) -> None:
    """Give the wide stacks weights of their own."""
    for built in stacks._stacks.values():
        if built is stacks.base:
            continue
        for layer in built.runner.model.modules():
            for parameter in layer.parameters(recurse=False):
                before = parameter.data
                _mending.append(lambda p=parameter, b=before: setattr(p, "data", b))
                parameter.data = before.clone()
            method = getattr(layer, "quant_method", None)
            if hasattr(method, "weights"):
                replace(method, "weights", [weight.clone() for weight in method.weights])


def forget_to_flush(stacks: Any, *, degree: int) -> None:
    """Leave one stack's prefix cache as it is."""
    from taper_rollout.sglang.live_requests import handoff

    flush, spared = handoff.flush, stacks._stacks[degree].scheduler
    replace(handoff, "flush", lambda scheduler: None if scheduler is spared else flush(scheduler))


def refuse_to_flush(stacks: Any, *, degree: int) -> None:
    """SGLang's `flush_cache` says no, as it does just after the last output."""
    scheduler = stacks._stacks[degree].scheduler
    scheduler.flush_cache = lambda *_, **__: False
    _mending.append(lambda: delattr(scheduler, "flush_cache"))


def drift(stacks: Any) -> None:
    """Every rank seeds its generator apart."""
    from taper_rollout.sglang import random_state

    install = random_state.install
    replace(random_state, "install", lambda seed: install(seed + stacks.rank))


def share_noise(_: Any) -> None:
    """Every group gets the same random state."""
    from taper_rollout.sglang import random_state

    replace(random_state, "group_seed", lambda replica_seed, epoch, group: 1000 * replica_seed + epoch)


def halve_arenas(stacks: Any) -> None:
    """A private KV pool of half the size for each stack: together as large as the one arena."""
    for built in stacks._stacks.values():
        pool = built.runner.token_to_kv_pool
        for name in ("k_buffer", "v_buffer"):
            replace(pool, name, [b[: len(b) // 2].clone() for b in getattr(pool, name)])


# -- what a switch must survive ------------------------------------------------------------


def refuse_switch(stacks: Any, *, rank: int) -> None:
    if stacks.rank == rank:
        offer = stacks.offer
        stacks.offer = lambda *a: dataclasses.replace(offer(*a), refusal="not now")
        _mending.append(lambda: delattr(stacks, "offer"))


def arrive_late(stacks: Any, *, rank: int, seconds: float) -> None:
    """A rank that reaches the boundary long after the others."""
    if stacks.rank == rank:
        offer = stacks.offer

        def late(*arguments: Any) -> Any:
            time.sleep(seconds)
            return offer(*arguments)

        stacks.offer = late
        _mending.append(lambda: delattr(stacks, "offer"))


def finish_late(stacks: Any, *, rank: int, seconds: float) -> None:
    """A rank that has transferred, but says so long after the others."""
    if stacks.rank == rank:
        transfer = stacks.transfer

        def late(*arguments: Any) -> Any:
            parts = transfer(*arguments)
            time.sleep(seconds)
            return parts

        stacks.transfer = late
        _mending.append(lambda: delattr(stacks, "transfer"))


def fail_in_transfer(stacks: Any, *, rank: int) -> None:
    """A fault that no rank can take back."""
    if stacks.rank == rank:

        def fail(*_: Any) -> Any:
            raise OSError("no memory left")

        stacks.transfer = fail
        _mending.append(lambda: delattr(stacks, "transfer"))


# -- what happened -------------------------------------------------------------------------


def trace_tokens(stacks: Any) -> None:
    """Record each sampled token: (epoch, degree, request, position, token)."""
    _trace.clear()
    on_step = stacks.on_step

    def noting(batch: Any, result: Any) -> None:
        on_step(batch, result)
        for request in batch.reqs:
            if len(request.output_ids):
                _trace.append(
                    [
                        stacks._protocol.epoch,
                        stacks.degree,
                        request.rid,
                        len(request.output_ids),
                        int(request.output_ids[-1]),
                    ]
                )

    stacks.on_step = noting
    _mending.append(lambda: delattr(stacks, "on_step"))


def traced(_: Any) -> dict[str, Any]:
    return {"tokens": list(_trace)}


def _numbers(size: Any) -> list[int]:
    """What a prefix cache calls its size: a number, or one for each kind of cache."""
    return [int(part) for part in size] if isinstance(size, tuple) else [int(size)]


def cached_tokens(stacks: Any) -> dict[str, Any]:
    """Tokens in each stack's prefix cache, and slots that its allocator can give."""
    facts = {}
    for degree, built in stacks._stacks.items():
        scheduler = built.scheduler
        facts[str(degree)] = {
            "cached": sum(_numbers(scheduler.tree_cache.total_size())),
            "free": int(scheduler.token_to_kv_pool_allocator.available_size()),
            "slots": int(scheduler.token_to_kv_pool_allocator.size),
            "rows": int(scheduler.req_to_token_pool.available_size()),
        }
    return facts


# -- what a trainer sends --------------------------------------------------------------------


def weights_of(argument: dict[str, str]) -> Iterator[list[tuple[str, Any]]]:
    """A model's tensors, a few at a time."""
    from safetensors import safe_open

    with safe_open(f"{argument['path']}/model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
        for start in range(0, len(names), 8):
            yield [(name, tensors.get_tensor(name)) for name in names[start : start + 8]]
