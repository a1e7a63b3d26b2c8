"""A rank's commands that do not change the layout: flush, sleep, wake, update weights, inspect.

Private names touched, read at SGLang 0.5.23: `ModelRunner.weight_updater`, `token_to_kv_pool`.
"""

from __future__ import annotations

import importlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from taper_rollout.sglang import kv_arena, weight_views
from taper_rollout.sglang.live_requests import handoff
from taper_rollout.sglang.stacks import BuiltStack
from taper_rollout.switching.command import Command


class RankCommands:
    """Works on all `stacks` of a rank, by degree; the `base` one owns weights and KV arena."""

    def __init__(self, rank: int, stacks: dict[int, BuiltStack], base: BuiltStack) -> None:
        self._rank, self._stacks, self._base = rank, stacks, base

    def obey(self, command: Command, *, degree: int) -> dict[str, Any]:
        """Run a command; `degree` is the active one. Raises KeyError for an unknown command."""
        commands: Mapping[str, Callable[..., dict[str, Any]]] = {
            "flush": self.flush,
            "sleep": self.sleep,
            "wake": self.wake,
            "update_weights": self.update_weights,
            "inspect": lambda: self.inspect() | {"degree": degree},
        }
        with torch.inference_mode():
            return commands[command.name](**command.arguments)

    def flush(self) -> dict[str, Any]:
        """Drop the prefix caches of all stacks."""
        for built in self._stacks.values():
            with built.active() as scheduler:
                handoff.flush(scheduler)
        return {}

    def update_weights(
        self, *, source: str, arguments: list[dict[str, Any]], version: int | None
    ) -> dict[str, Any]:
        """Load new weights into the base stack, bucket by bucket; every wide stack is a view of it.

        `source` ("module:function") yields lists of (name, full tensor) in this process.
        Afterwards the prefix caches of all stacks are dropped. Raises RuntimeError where
        SGLang refuses a bucket or a parameter changed its storage.
        """
        module, _, function = source.partition(":")
        buckets: Iterator[list[tuple[str, torch.Tensor]]] = getattr(
            importlib.import_module(module), function
        )(arguments[self._rank])
        model, received = self._base.runner.model, 0
        before = {name: p.data_ptr() for name, p in model.named_parameters()}
        with self._base.active():
            updater = self._base.runner.weight_updater
            updater.begin_weight_update()
            for bucket in buckets:
                ok, message = updater.update_weights_from_tensor(named_tensors=bucket, load_format=None)
                if not ok:
                    raise RuntimeError(f"SGLang refused weights: {message}")
                received += sum(tensor.nbytes for _, tensor in bucket)
            updater.end_weight_update(run_post_load=False)
        moved = [name for name, p in model.named_parameters() if p.data_ptr() != before[name]]
        if moved:
            raise RuntimeError(f"weights changed their storage, so wide stacks are stale: {moved[:3]}")
        self.flush()
        return {"received_bytes": received, "version": version}

    def sleep(self, *, tags: list[str]) -> dict[str, Any]:
        """Release memory. The stacks must be idle; see `memory_saver` for what each tag frees."""
        from taper_rollout.sglang import memory_saver

        for built in self._stacks.values():
            if handoff.live_requests(built.scheduler):
                raise RuntimeError("cannot sleep with live requests: abort them first")
        self.flush()
        return {"released_bytes": memory_saver.release(self._stacks, self._base, tags)}

    def wake(self, *, tags: list[str]) -> dict[str, Any]:
        """Take back what `sleep` released."""
        from taper_rollout.sglang import memory_saver

        memory_saver.restore(self._stacks, self._base, tags)
        return {}

    def inspect(self) -> dict[str, Any]:
        """Facts that tests and benchmarks assert: memory, sharing, random state."""
        pools = [built.runner.token_to_kv_pool for built in self._stacks.values()]
        base_model = self._base.runner.model
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "resident_bytes": resident,
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "arena_bytes": kv_arena.storage_bytes(pools[0]),
            "all_pools_bytes": kv_arena.storage_bytes(*pools),
            "weight_bytes": sum(p.nbytes for p in base_model.parameters()),
            "private_weight_bytes": {
                str(degree): weight_views.private_bytes(built.runner.model, base_model)
                for degree, built in self._stacks.items()
                if built is not self._base
            },
            "next_random": float(torch.rand(1, generator=_clone_generator())),
        }


def _clone_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return generator
