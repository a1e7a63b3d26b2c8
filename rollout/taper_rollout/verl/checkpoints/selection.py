"""VeRL's checkpoints: which of them are complete, and which one a run goes on from (VeRL 0.9.1).

A checkpoint is a directory `global_step_<n>`. Each rank writes its shards into `actor` (and `critic`), then
the trainer writes `data.pt`, then `n` into `latest_checkpointed_iteration.txt` next to the directory
(`PPOTrainer._save_checkpoint`, `FSDPCheckpointManager.save_checkpoint`). VeRL itself believes that file
alone; but a machine that goes down may have written the number and lost the shards. So each file is
looked at: `torch.save` writes zip archives, and the list at an archive's end names the places of all
of its parts. Tensors are not read: that would take minutes for a large model.

An attempt on a cluster has a directory of its own (`taper_api.job.attempt_directory`) and goes on from the
newest checkpoint of all earlier attempts of its job too. It writes nothing into theirs; when theirs
go is said in `old_checkpoints.py`.

Invariants (asserted by `tests/rollout/verl/checkpoints/test_selection.py`):
- nothing is written, whatever is there;
- what is chosen is complete, and no complete one has a higher step; of equal steps the later attempt counts;
- of another job, or a later attempt, nothing is taken;
- every newer one that is not chosen is named, with the reason, but for those that VeRL has removed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taper_api import JobError, Problem
from taper_api.job.attempt_directory import attempt_directory_of

TRACKER_FILE = "latest_checkpointed_iteration.txt"
DATA_FILE = "data.pt"
# What VeRL's settings call the contents of a checkpoint, and how a rank's file of each begins.
SHARD_PREFIXES = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
_STEP = re.compile(r"global_step_([0-9]{1,12})")
_WORLD = re.compile(r"_world_size_([0-9]+)_rank_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """What the ranks have saved of a model.

    name: of its directory in a checkpoint
    contents: keys of SHARD_PREFIXES
    """

    name: str
    contents: tuple[str, ...]
    num_ranks: int

    def files(self) -> Iterator[str]:
        """The files that it consists of."""
        for content in self.contents:
            for rank in range(self.num_ranks):
                prefix = SHARD_PREFIXES[content]
                yield f"{self.name}/{prefix}_world_size_{self.num_ranks}_rank_{rank}.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the training state after `step` steps."""

    directory: Path
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A checkpoint that a run does not go on from, and why."""

    directory: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Where a run goes on from: None for its beginning. `passed_over` are the newer ones, newest first."""

    checkpoint: Checkpoint | None
    passed_over: tuple[PassedOver, ...] = ()


class _Unusable(Exception):
    """Why a checkpoint cannot be gone on from."""


def resumption(directory: Path, shards: tuple[Shards, ...]) -> Resumption:
    """Where a run that saves to `directory` goes on from.

    Raises `JobError` where the newest complete checkpoint was saved by another number of ranks.
    """
    passed_over = []
    for checkpoint in newest_first(directory):
        try:
            _check(checkpoint, shards)
        except _Unusable as reason:
            passed_over.append(PassedOver(directory=checkpoint.directory, reason=str(reason)))
            continue
        return Resumption(checkpoint=checkpoint, passed_over=tuple(passed_over))
    return Resumption(checkpoint=None, passed_over=tuple(passed_over))


def is_whole(checkpoint: Checkpoint, shards: tuple[Shards, ...]) -> bool:
    """Whether a run could go on from it."""
    try:
        _check(checkpoint, shards)
    except (_Unusable, JobError):
        return False
    return True


def newest_first(directory: Path) -> list[Checkpoint]:
    """All checkpoints of a run that saves to `directory`, and of earlier attempts at its job, that were not
    removed. Of equal steps the later attempt's comes first.
    """
    found = [
        (int(name[1]), attempt, place)
        for attempt, folder in _folders(directory)
        for place in _entries(folder)
        if (name := _STEP.fullmatch(place.name)) and (place / "actor").is_dir()
    ]
    return [Checkpoint(directory=place, step=step) for step, _, place in sorted(found, reverse=True)]


def _folders(directory: Path) -> Iterator[tuple[int, Path]]:
    """Attempt and directory: the run's own, and those of earlier attempts at its job."""
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
    """Raises _Unusable, or JobError for one of another number of ranks."""
    last = _last_told(checkpoint.directory.parent)
    if last is not None and checkpoint.step > last:
        raise _Unusable(f"was not finished: {TRACKER_FILE} says {last}")
    data = checkpoint.directory / DATA_FILE
    if not data.exists():
        raise _Unusable(f"was not finished: there is no {DATA_FILE}")
    for part in shards:
        _check_ranks(checkpoint.directory, part)
    for file in (DATA_FILE, *(file for part in shards for file in part.files())):
        _check_archive(checkpoint.directory / file, file)


def _last_told(folder: Path) -> int | None:
    """The last step that VeRL says it has saved; None where it does not say, or nothing of use."""
    try:
        return int((folder / TRACKER_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _check_ranks(directory: Path, part: Shards) -> None:
    files = [file.name for file in _entries(directory / part.name)]
    worlds = {int(found[1]) for name in files if (found := _WORLD.search(name))}
    if worlds and part.num_ranks not in worlds:
        saved_by = ", ".join(str(world) for world in sorted(worlds))
        raise JobError(
            [
                Problem(
                    path="spec.training.ranks",
                    message=f"the checkpoint {directory} was saved by {saved_by} ranks in all, "
                    f"and the job has {part.num_ranks}",
                    remedy=f"use {saved_by} ranks, another directory for checkpoints, or "
                    "spec.training.checkpoints.resume: never",
                )
            ]
        )


def _check_archive(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                # Reads what stands before the part, no more: a hole in the file has no such thing.
                archive.open(entry).close()
    except FileNotFoundError:
        raise _Unusable(f"is damaged: {name} is missing") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _Unusable(f"is damaged: {name}: {str(error) or type(error).__name__}") from None
    if not entries:
        raise _Unusable(f"is damaged: {name} is empty")
