"""Makes VeRL go on from the checkpoint that Taper has found (VeRL 0.9.1: `PPOTrainer._load_checkpoint`).

It runs in the trainer's process: that one sees the directory that is saved to, wherever the driver is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from taper_rollout.verl.checkpoints.retention import after_each_save, remove_old_checkpoints
from taper_rollout.verl.checkpoints.selection import SHARD_PREFIXES, Resumption, Shards, resumption

FSDP = ("fsdp", "fsdp2")


def resume(config: Any, *, has_critic: bool) -> Resumption | None:
    """Put the checkpoint into a composed `ppo_trainer` configuration; None where VeRL itself is to look.

    Raises `JobError`, as `resumption` does.
    """
    trainer = config.trainer
    if trainer.resume_mode != "auto" or config.actor_rollout_ref.actor.strategy not in FSDP:
        return None
    found = resumption(_directory(config), _shards(config, has_critic=has_critic))
    if found.checkpoint is None:
        # VeRL would still take one that is damaged.
        trainer.resume_mode = "disable"
    else:
        trainer.resume_mode = "resume_path"
        trainer.resume_from_path = str(found.checkpoint.directory)
    return found


def keep_newest(config: Any, *, has_critic: bool) -> None:
    """Have checkpoints of earlier attempts go as newer are saved, where a number to keep is given."""
    keep = config.trainer.max_actor_ckpt_to_keep
    if keep is not None:
        shards = _shards(config, has_critic=has_critic)
        after_each_save(functools.partial(remove_old_checkpoints, _directory(config), shards, keep))


def resumed_event(found: Resumption) -> dict[str, Any]:
    """What the run is told of it."""
    checkpoint = found.checkpoint
    return {
        "kind": "Resumed",
        "step": 0 if checkpoint is None else checkpoint.step,
        "directory": None if checkpoint is None else str(checkpoint.directory),
        "passed_over": [
            {"directory": str(each.directory), "reason": each.reason} for each in found.passed_over
        ],
    }


def _directory(config: Any) -> Path:
    return Path(config.trainer.default_local_dir).absolute()


def _shards(config: Any, *, has_critic: bool) -> tuple[Shards, ...]:
    """What the ranks save of each model."""
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    parts = {"actor": config.actor_rollout_ref.actor} | ({"critic": config.critic} if has_critic else {})
    return tuple(
        Shards(name=name, contents=_contents(part), num_ranks=num_ranks) for name, part in parts.items()
    )


def _contents(part: Any) -> tuple[str, ...]:
    loaded = part.checkpoint.load_contents
    return tuple(content for content in SHARD_PREFIXES if content in loaded)
