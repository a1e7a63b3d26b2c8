"""Sleeping and waking all stacks of a rank together.

CPU: `kv_cache` gives the arena's pages back to the kernel; weights stay, as the next
update writes them in place anyway.

GPU: SGLang's memory saver pauses and resumes by tag, and tags are process-wide: one
pause frees the memory of every stack. So the buffers of *all* stacks (rotary tables and
the like, which are lost without a CPU copy) are saved before the first pause and put
back after the resume. Virtual addresses are kept, so views stay good.
Read at SGLang 0.5.23: `scheduler_components/weight_updater.py:379`.
"""

from __future__ import annotations

import torch

from taper_rollout.sglang import kv_arena
from taper_rollout.sglang.stacks import BuiltStack

KV_CACHE, WEIGHTS = "kv_cache", "weights"
TAGS = (KV_CACHE, WEIGHTS)

_saved: dict[int, dict[str, torch.Tensor]] = {}


def release(stacks: dict[int, BuiltStack], base: BuiltStack, tags: list[str]) -> None:
    """Free what `tags` name."""
    _check(tags)
    if base.runner.device == "cpu":
        if KV_CACHE in tags:
            kv_arena.discard(base.runner.token_to_kv_pool)
        return
    saver = base.runner.memory_saver_adapter
    if WEIGHTS in tags:
        for degree, built in stacks.items():
            _saved[degree] = {name: b.detach().cpu() for name, b in built.runner.model.named_buffers()}
    for tag in tags:
        saver.pause(tag)
    torch.cuda.synchronize()


def restore(stacks: dict[int, BuiltStack], base: BuiltStack, tags: list[str]) -> None:
    """Bring back what `tags` name. KV is empty; weights are what the next update writes."""
    _check(tags)
    if base.runner.device == "cpu":
        return
    for tag in tags:
        base.runner.memory_saver_adapter.resume(tag)
    if WEIGHTS in tags:
        for degree, built in stacks.items():
            for name, buffer in built.runner.model.named_buffers():
                buffer.copy_(_saved[degree][name])
        _saved.clear()


def _check(tags: list[str]) -> None:
    unknown = sorted(set(tags) - set(TAGS))
    if unknown:
        raise ValueError(f"unknown memory tags {unknown}; known are {list(TAGS)}")
