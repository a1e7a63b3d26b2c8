"""Makes VeRL go on from the checkpoint that Taper has found (VeRL 0.9.1: `PPOTrainer._load_checkpoint`).

It runs in the trainer's process: that one sees the directory that is saved to, wherever the driver is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taper_rollout.verl.checkpoints import SHARD_PREFIXES, Resumption, Shards, resumption

FSDP = ("fsdp", "fsdp2")


def resume(config: Any, *, has_critic: bool) -> Resumption | None:
    """Put the checkpoint into a composed `ppo_trainer` configuration; None where VeRL itself is to look.

    Raises `JobError`, as `resumption` does.
    """
    trainer = config.trainer
    if trainer.resume_mode != "auto" or config.actor_rollout_ref.actor.strategy not in FSDP:
        return None
    num_ranks = trainer.nnodes * trainer.n_gpus_per_node
    shards = [_shards("actor", config.actor_rollout_ref.actor, num_ranks)]
    if has_critic:
        shards.append(_shards("critic", config.critic, num_ranks))
    found = resumption(Path(trainer.default_local_dir).absolute(), tuple(shards))
    if found.checkpoint is None:
        # VeRL would still take one that is damaged.
        trainer.resume_mode = "disable"
    else:
        trainer.resume_mode = "resume_path"
        trainer.resume_from_path = str(found.checkpoint.directory)
    return found


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


def _shards(name: str, part: Any, num_ranks: int) -> Shards:
    loaded = part.checkpoint.load_contents
    contents = tuple(content for content in SHARD_PREFIXES if content in loaded)
    return Shards(name=name, contents=contents, num_ranks=num_ranks)
