"""Makes VeRL resume from the checkpoint that Taper selects (VeRL 0.9.1: `PPOTrainer._load_checkpoint`).

Runs in the trainer's process, which can read the checkpoint directory wherever the driver is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from taper_rollout.events import Resumed, SkippedCheckpoint
from taper_rollout.verl.checkpoints.retention import after_each_save, remove_old_checkpoints
from taper_rollout.verl.checkpoints.selection import SHARD_PREFIXES, ResumePoint, Shards, resumption

FSDP = ("fsdp", "fsdp2")


def resume(config: Any, *, has_critic: bool) -> ResumePoint | None:
    """Set the checkpoint in a composed `ppo_trainer` configuration. None if the choice is left to VeRL.

    Raises `JobError`, as `resumption` does.
    """
    trainer = config.trainer
    if trainer.resume_mode != "auto" or config.actor_rollout_ref.actor.strategy not in FSDP:
        return None
    found = resumption(_directory(config), _shards(config, has_critic=has_critic))
    if found.checkpoint is None:
        # Otherwise VeRL would still load a damaged one.
        trainer.resume_mode = "disable"
    else:
        trainer.resume_mode = "resume_path"
        trainer.resume_from_path = str(found.checkpoint.directory)
    return found


def keep_newest(config: Any, *, has_critic: bool) -> None:
    """Remove checkpoints of earlier attempts after each save, if the number to keep is limited."""
    keep = config.trainer.max_actor_ckpt_to_keep
    if keep is not None:
        shards = _shards(config, has_critic=has_critic)
        after_each_save(functools.partial(remove_old_checkpoints, _directory(config), shards, keep))


def resumed_event(found: ResumePoint) -> Resumed:
    """The event that reports the selection to the run."""
    checkpoint = found.checkpoint
    return Resumed(
        step=0 if checkpoint is None else checkpoint.step,
        directory=None if checkpoint is None else str(checkpoint.directory),
        passed_over=tuple(
            SkippedCheckpoint(directory=str(each.directory), reason=each.reason) for each in found.skipped
        ),
    )


def _directory(config: Any) -> Path:
    return Path(config.trainer.default_local_dir).absolute()


def _shards(config: Any, *, has_critic: bool) -> tuple[Shards, ...]:
    """The shards that the ranks save, per model."""
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    parts = {"actor": config.actor_rollout_ref.actor} | ({"critic": config.critic} if has_critic else {})
    return tuple(
        Shards(name=name, contents=_contents(part), num_ranks=num_ranks) for name, part in parts.items()
    )


def _contents(part: Any) -> tuple[str, ...]:
    loaded = part.checkpoint.load_contents
    return tuple(content for content in SHARD_PREFIXES if content in loaded)
