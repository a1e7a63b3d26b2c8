"""Makes VeRL resume from the checkpoint that Taper selects (VeRL 0.9.1: `PPOTrainer._load_checkpoint`).

Runs in the trainer's process, which can read the checkpoint directory wherever the driver is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from taper_rollout.events import Resumed
from taper_rollout.verl.checkpoints.retention import remove_old_checkpoints
from taper_rollout.verl.checkpoints.selection import SHARD_PREFIXES, Shards, resumption

FSDP = ("fsdp", "fsdp2")


def resume(config: Any, *, has_critic: bool) -> Resumed | None:
    """Set the checkpoint in a composed `ppo_trainer` configuration. None if the choice is left to VeRL.

    Raises `JobError`, as `resumption` does.
    """
    trainer = config.trainer
    if trainer.resume_mode != "auto" or config.actor_rollout_ref.actor.strategy not in FSDP:
        return None
    found = resumption(_directory(config), _shards(config, has_critic))
    if found.directory is None:
        # Otherwise VeRL would still load a damaged one.
        trainer.resume_mode = "disable"
    else:
        trainer.resume_mode = "resume_path"
        trainer.resume_from_path = found.directory
    return found


def keep_newest(config: Any, *, has_critic: bool) -> None:
    """Remove checkpoints of earlier attempts after each save, if the number to keep is limited.

    Changes VeRL's trainer in this process (0.9.1: `_save_checkpoint`).
    """
    keep = config.trainer.max_actor_ckpt_to_keep
    if keep is None:
        return
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    directory, shards, save = _directory(config), _shards(config, has_critic), PPOTrainer._save_checkpoint

    @functools.wraps(save)
    def save_and_remove(self: Any) -> None:
        save(self)
        remove_old_checkpoints(directory, shards, keep)

    PPOTrainer._save_checkpoint = save_and_remove


def _directory(config: Any) -> Path:
    return Path(config.trainer.default_local_dir).absolute()


def _shards(config: Any, has_critic: bool) -> tuple[Shards, ...]:
    """The shards that the ranks save, per model."""
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    parts = {"actor": config.actor_rollout_ref.actor} | ({"critic": config.critic} if has_critic else {})
    return tuple(
        Shards(name=name, contents=_contents(part), num_ranks=num_ranks) for name, part in parts.items()
    )


def _contents(part: Any) -> tuple[str, ...]:
    loaded = part.checkpoint.load_contents
    return tuple(content for content in SHARD_PREFIXES if content in loaded)
