"""A rank's commands that do not change the layout: flush, sleep, wake, update weights, arena.

Private names touched, read at SGLang 0.5.23: `ModelRunner.weight_updater`, `token_to_kv_pool`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from taper_rollout.sglang import memory_saver
from taper_rollout.sglang.live_requests import handoff
from taper_rollout.sglang.stacks import BuiltStack
from taper_rollout.switching.command import Command


class RankCommands:
    """Works on all `stacks` of a rank, by degree; the `base` one owns weights and KV arena."""

    def __init__(self, rank: int, stacks: dict[int, BuiltStack], base: BuiltStack) -> None:
        self._rank, self._stacks, self._base = rank, stacks, base

    def obey(self, command: Command) -> dict[str, Any] | None:
        """Run a command. Raises KeyError for an unknown one."""
        commands: Mapping[str, Callable[..., dict[str, Any] | None]] = {
            "flush": self.flush,
            "sleep": self.sleep,
            "wake": self.wake,
            "update_weights": self.update_weights,
            "arena": self.arena,
        }
        with torch.inference_mode():
            return commands[command.name](**command.arguments)

    def flush(self) -> None:
        """Drop the prefix caches of all stacks."""
        for built in self._stacks.values():
            with built.active() as scheduler:
                handoff.flush(scheduler)

    def update_weights(self, *, source: str, arguments: list[dict[str, Any]]) -> dict[str, Any]:
        """Load new weights into the base stack, bucket by bucket; every wide stack is a view of it.

        `source` ("module:function") yields lists of (name, full tensor) in this process.
        Afterwards the prefix caches of all stacks are dropped. Raises RuntimeError where
        SGLang refuses a bucket or a parameter changed its storage.
        """
        buckets: Iterator[list[tuple[str, torch.Tensor]]]
        buckets = pkgutil.resolve_name(source)(arguments[self._rank])
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
        return {"received_bytes": received}

    def sleep(self, *, tags: list[str]) -> None:
        """Release memory. The stacks must be idle; see `memory_saver` for what each tag frees."""
        for built in self._stacks.values():
            if handoff.live_requests(built.scheduler):
                raise RuntimeError("cannot sleep with live requests: abort them first")
        self.flush()
        memory_saver.release(self._stacks, self._base, tags)

    def wake(self, *, tags: list[str]) -> None:
        """Take back what `sleep` released."""
        memory_saver.restore(self._stacks, self._base, tags)

    def arena(self) -> dict[str, Any]:
        """How many tokens the KV arena has at the base degree: where the job gives none, SGLang decides."""
        return {"kv_tokens": int(self._base.runner.token_to_kv_pool.size)}
