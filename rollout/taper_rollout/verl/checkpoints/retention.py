"""Removes checkpoints of earlier attempts once newer ones are complete.

VeRL's `max_actor_ckpt_to_keep` counts only what the current process has saved. On a cluster every
attempt has its own directory, so checkpoints of earlier attempts would fill the volume. So after each
save the newest complete checkpoints of all attempts are counted, and those of earlier attempts beyond
`spec.training.checkpoints.keep` are removed. Without a number, all are kept.

At least two complete ones are kept: with `max_actor_ckpt_to_keep: 1`, VeRL removes its last checkpoint
before the next one is complete (0.9.1: `BaseCheckpointManager.register_checkpoint`, before the trainer
writes `data.pt`).

Invariants (asserted by `tests/rollout/verl/checkpoints/test_retention.py`):
- the newest complete checkpoints are kept, `keep` of them and never fewer than two, and all newer ones;
- nothing of this attempt, a later one or another job is removed, and nothing but checkpoints;
- a checkpoint that cannot be removed is logged and does not end the training.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from taper_rollout.verl.checkpoints.selection import Checkpoint, Shards, is_complete, newest_first

MIN_KEPT = 2

_logger = logging.getLogger(__name__)


def old_checkpoints(directory: Path, shards: tuple[Shards, ...], keep: int) -> list[Checkpoint]:
    """Checkpoints of earlier attempts that a run saving to `directory` does not need, oldest first."""
    found = newest_first(directory)
    if all(_is_own(each, directory) for each in found):
        return []
    num_complete = 0
    for index, checkpoint in enumerate(found, start=1):
        num_complete += is_complete(checkpoint, shards)
        if num_complete == max(keep, MIN_KEPT):
            return [each for each in reversed(found[index:]) if not _is_own(each, directory)]
    return []


def remove_old_checkpoints(directory: Path, shards: tuple[Shards, ...], keep: int) -> None:
    """Remove the old checkpoints. Logs an `OSError` instead of raising it: it must not end the training."""
    try:
        for checkpoint in old_checkpoints(directory, shards, keep):
            _logger.info(
                "removing %s of an earlier attempt: newer checkpoints are complete", checkpoint.directory
            )
            shutil.rmtree(checkpoint.directory)
    except OSError as error:
        _logger.warning("cannot remove a checkpoint of an earlier attempt: %s", error)


def _is_own(checkpoint: Checkpoint, directory: Path) -> bool:
    return checkpoint.directory.parent == directory
