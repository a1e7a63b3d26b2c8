"""Removes checkpoints of earlier attempts when newer ones are whole.

VeRL's `max_actor_ckpt_to_keep` knows what the present process has saved, no more: on a cluster, where every
attempt has a directory of its own, those of earlier attempts would fill the volume. So after each save
the newest whole checkpoints of all attempts are counted, and what earlier attempts have left beyond
`spec.training.checkpoints.keep` of them goes. Where no number is given, all stay.

Two whole ones stay at least: told to keep one, VeRL removes its last before the next is finished
(0.9.1: `BaseCheckpointManager.register_checkpoint`, before the trainer writes `data.pt`).

Invariants (asserted by `tests/rollout/verl/checkpoints/test_retention.py`):
- the newest whole checkpoints stay, `keep` of them and never fewer than two, and all that are newer;
- nothing of this attempt, a later one or another job is removed, and nothing beside checkpoints;
- what cannot be removed is told, and ends no training.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taper_rollout.verl.checkpoints.selection import Checkpoint, Shards, is_whole, newest_first

LEAST_KEPT = 2

_logger = logging.getLogger(__name__)


def old_checkpoints(directory: Path, shards: tuple[Shards, ...], keep: int) -> list[Checkpoint]:
    """What earlier attempts have left that a run which saves to `directory` has no use for, oldest first."""
    found = newest_first(directory)
    if all(_is_own(each, directory) for each in found):
        return []
    num_whole = 0
    for index, checkpoint in enumerate(found, start=1):
        num_whole += is_whole(checkpoint, shards)
        if num_whole == max(keep, LEAST_KEPT):
            return [each for each in reversed(found[index:]) if not _is_own(each, directory)]
    return []


def remove_old_checkpoints(directory: Path, shards: tuple[Shards, ...], keep: int) -> None:
    """Remove them. Raises nothing: room that is not won is no reason to stop."""
    try:
        for checkpoint in old_checkpoints(directory, shards, keep):
            _logger.info("removing %s of an earlier attempt: newer ones are whole", checkpoint.directory)
            shutil.rmtree(checkpoint.directory)
    except OSError as error:
        _logger.warning("a checkpoint of an earlier attempt stays: %s", error)


def after_each_save(remove: Callable[[], None]) -> None:
    """Have VeRL's trainer, in this process, do so whenever it has saved (0.9.1: `_save_checkpoint`)."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    save = PPOTrainer._save_checkpoint

    @functools.wraps(save)
    def save_and_remove(self: Any) -> None:
        save(self)
        remove()

    PPOTrainer._save_checkpoint = save_and_remove


def _is_own(checkpoint: Checkpoint, directory: Path) -> bool:
    return checkpoint.directory.parent == directory
