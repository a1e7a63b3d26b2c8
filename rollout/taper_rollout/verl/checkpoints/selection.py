"""Selects the checkpoint that a run resumes from, among VeRL's complete ones (VeRL 0.9.1).

A checkpoint is a directory `global_step_<n>`. Each rank writes its shards into `actor` (and `critic`),
then the trainer writes `data.pt`, then `n` into `latest_checkpointed_iteration.txt` next to the
directory (`PPOTrainer._save_checkpoint`, `FSDPCheckpointManager.save_checkpoint`). VeRL relies on that
file alone, but a machine that crashes may have written the number and lost the shards. So every file is
checked: `torch.save` writes zip archives, whose directory at the end lists the offsets of all parts.
Tensors are not read, which would take minutes for a large model.

An attempt on a cluster has its own directory (`taper_api.job.attempt_directory`) and also resumes from
checkpoints of earlier attempts at its job. It writes nothing into their directories; `retention.py`
removes them.

Invariants (asserted by `tests/rollout/verl/checkpoints/test_selection.py`):
- nothing is written;
- the selected checkpoint is complete, and no complete one has a higher step; of equal steps the later
  attempt's is used;
- checkpoints of another job or of a later attempt are never used;
- every newer checkpoint that is not selected is listed with the reason, except those that VeRL has removed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taper_api import JobError
from taper_api.job.attempt_directory import attempt_directory_of
from taper_rollout.events import Resumed, SkippedCheckpoint

TRACKER_FILE = "latest_checkpointed_iteration.txt"
DATA_FILE = "data.pt"
# VeRL's names for the contents of a checkpoint, and the prefix of a rank's file of each.
SHARD_PREFIXES = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
_STEP = re.compile(r"global_step_([0-9]{1,12})")
_WORLD = re.compile(r"_world_size_([0-9]+)_rank_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """The files that the ranks save of a model.

    name: its directory in a checkpoint
    contents: keys of SHARD_PREFIXES
    """

    name: str
    contents: tuple[str, ...]
    num_ranks: int

    def files(self) -> Iterator[str]:
        """Paths of the files, relative to the checkpoint."""
        for content in self.contents:
            for rank in range(self.num_ranks):
                prefix = SHARD_PREFIXES[content]
                yield f"{self.name}/{prefix}_world_size_{self.num_ranks}_rank_{rank}.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the training state after `step` steps."""

    directory: Path
    step: int


class _Unusable(Exception):
    """Why a checkpoint cannot be resumed from."""


def resumption(directory: Path, shards: tuple[Shards, ...]) -> Resumed:
    """Select the checkpoint that a run saving to `directory` resumes from; newer ones are passed over.

    Raises `JobError` if the newest complete checkpoint was saved by another number of ranks.
    """
    skipped = []
    for checkpoint in newest_first(directory):
        try:
            _check(checkpoint, shards)
        except _Unusable as reason:
            skipped.append(SkippedCheckpoint(directory=str(checkpoint.directory), reason=str(reason)))
            continue
        place = str(checkpoint.directory)
        return Resumed(step=checkpoint.step, directory=place, passed_over=tuple(skipped))
    return Resumed(step=0, directory=None, passed_over=tuple(skipped))


def is_complete(checkpoint: Checkpoint, shards: tuple[Shards, ...]) -> bool:
    """Whether a run could resume from the checkpoint."""
    try:
        _check(checkpoint, shards)
    except (_Unusable, JobError):
        return False
    return True


def newest_first(directory: Path) -> list[Checkpoint]:
    """The checkpoints of a run saving to `directory` and of earlier attempts at its job, newest first.

    Of equal steps the later attempt's comes first. Those that VeRL has removed are left out.
    """
    found = [
        (int(name[1]), attempt, place)
        for attempt, folder in _folders(directory)
        for place in _entries(folder)
        if (name := _STEP.fullmatch(place.name)) and (place / "actor").is_dir()
    ]
    return [Checkpoint(directory=place, step=step) for step, _, place in sorted(found, reverse=True)]


def _folders(directory: Path) -> Iterator[tuple[int, Path]]:
    """(Attempt, directory) of the run itself and of earlier attempts at its job."""
    own = attempt_directory_of(directory.name)
    yield (own.number if own else 0), directory
    for sibling in _entries(directory.parent) if own else ():
        other = attempt_directory_of(sibling.name)
        if own and other and other.uid == own.uid and other.number < own.number:
            yield other.number, sibling


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _check(checkpoint: Checkpoint, shards: tuple[Shards, ...]) -> None:
    """Raises _Unusable, or JobError if it was saved by another number of ranks."""
    last = _last_saved(checkpoint.directory.parent)
    if last is not None and checkpoint.step > last:
        raise _Unusable(f"was not finished: {TRACKER_FILE} says {last}")
    data = checkpoint.directory / DATA_FILE
    if not data.exists():
        raise _Unusable(f"was not finished: there is no {DATA_FILE}")
    for part in shards:
        _check_ranks(checkpoint.directory, part)
    for file in (DATA_FILE, *(file for part in shards for file in part.files())):
        _check_archive(checkpoint.directory / file, file)


def _last_saved(folder: Path) -> int | None:
    """The last saved step according to VeRL's tracker file; None if it is missing or unreadable."""
    try:
        return int((folder / TRACKER_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _check_ranks(directory: Path, part: Shards) -> None:
    files = [file.name for file in _entries(directory / part.name)]
    worlds = {int(found[1]) for name in files if (found := _WORLD.search(name))}
    if worlds and part.num_ranks not in worlds:
        saved_by = ", ".join(str(world) for world in sorted(worlds))
        raise JobError.at(
            "spec.training.ranks",
            f"the checkpoint {directory} was saved by {saved_by} ranks in total, but the job has "
            f"{part.num_ranks}",
            f"use {saved_by} ranks, another directory for checkpoints, or "
            "spec.training.checkpoints.resume: never",
        )


def _check_archive(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                # Reads only the local header of the part, which is missing if the file has a hole there.
                archive.open(entry).close()
    except FileNotFoundError:
        raise _Unusable(f"is damaged: {name} is missing") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _Unusable(f"is damaged: {name}: {str(error) or type(error).__name__}") from None
    if not entries:
        raise _Unusable(f"is damaged: {name} is empty")
