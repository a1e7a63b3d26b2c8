"""Checkpoints of earlier attempts are removed once newer ones are complete, never the newest of those."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.verl.checkpoints import retention as old_checkpoints
from taper_rollout.verl.checkpoints.resume import keep_newest
from taper_rollout.verl.checkpoints.retention import remove_old_checkpoints
from taper_rollout.verl.checkpoints.selection import TRACKER_FILE, resumption

from .test_selection import ACTOR, MODEL_1, attempt, config, save, truncate


def steps_in(base: Path) -> dict[str, list[int]]:
    """The steps of the existing checkpoints, from the names of their directories."""
    places = base.glob("*/global_step_*")
    steps: dict[str, list[int]] = {}
    for place in places:
        steps.setdefault(place.parent.name[-4:], []).append(int(place.name.removeprefix("global_step_")))
    return {name: sorted(found) for name, found in sorted(steps.items())}


def test_checkpoints_older_than_the_newest_of_all_attempts_are_removed(tmp_path: Path) -> None:
    for number, step in ((1, 2), (1, 4), (1, 6), (2, 5), (2, 7), (3, 8)):
        save(attempt(tmp_path, number), step)
    remove_old_checkpoints(attempt(tmp_path, 3), (ACTOR,), 3)
    assert steps_in(tmp_path) == {"0001": [6], "0002": [7], "0003": [8]}
    assert (attempt(tmp_path, 1) / TRACKER_FILE).exists()


@pytest.mark.parametrize("keep", [1, 2])
def test_at_least_two_are_kept(tmp_path: Path, keep: int) -> None:
    for number, step in ((1, 4), (1, 6), (2, 8)):
        save(attempt(tmp_path, number), step)
    remove_old_checkpoints(attempt(tmp_path, 2), (ACTOR,), keep)
    assert steps_in(tmp_path) == {"0001": [6], "0002": [8]}


def test_damaged_checkpoints_do_not_count(tmp_path: Path) -> None:
    for number, step in ((1, 4), (1, 5), (1, 6), (2, 8)):
        save(attempt(tmp_path, number), step)
    for number, step in ((1, 5), (1, 6), (2, 8)):
        truncate(attempt(tmp_path, number) / f"global_step_{step}" / MODEL_1)
    remove_old_checkpoints(attempt(tmp_path, 2), (ACTOR,), 1)
    assert steps_in(tmp_path) == {"0001": [4, 5, 6], "0002": [8]}


def test_those_of_this_or_a_later_attempt_or_another_job_are_kept(tmp_path: Path) -> None:
    for place in (attempt(tmp_path, 2), attempt(tmp_path, 3), attempt(tmp_path, 1, "other"), tmp_path / "x"):
        for step in (1, 2, 3):
            save(place, step)
    (attempt(tmp_path, 1) / "results").mkdir(parents=True)
    save(attempt(tmp_path, 1), 1)
    before = sorted(tmp_path.rglob("*"))
    remove_old_checkpoints(attempt(tmp_path, 2), (ACTOR,), 1)
    gone = set(before) - set(tmp_path.rglob("*"))
    assert attempt(tmp_path, 1) / "global_step_1" in gone
    assert {place.relative_to(attempt(tmp_path, 1)).parts[0] for place in gone} == {"global_step_1"}


def test_a_checkpoint_that_cannot_be_removed_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, step in ((1, 1), (2, 2), (2, 3)):
        save(attempt(tmp_path, number), step)

    def refuse(place: Path) -> None:
        raise PermissionError(f"{place} is read-only")

    monkeypatch.setattr(old_checkpoints.shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        remove_old_checkpoints(attempt(tmp_path, 2), (ACTOR,), 1)
    assert "global_step_1 is read-only" in caplog.text


@given(
    saved=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 6), st.booleans()), max_size=9),
    own=st.integers(1, 4),
    keep=st.integers(1, 3),
)
def test_removal_does_not_change_the_checkpoint_to_resume_from(
    tmp_path_factory: pytest.TempPathFactory, saved: set[tuple[int, int, bool]], own: int, keep: int
) -> None:
    """For this attempt and every later one, and from another complete one if the first is lost."""
    base = tmp_path_factory.mktemp("base")
    whole = {}
    for number, step, is_complete in saved:
        place = save(attempt(base, number), step, is_recorded=False)
        if not is_complete:
            truncate(place / MODEL_1)
        whole[number, step] = is_complete
    before = {number: resumption(attempt(base, number), (ACTOR,)) for number in (own, own + 1)}
    remove_old_checkpoints(attempt(base, own), (ACTOR,), keep)
    assert {number: resumption(attempt(base, number), (ACTOR,)) for number in before} == before
    left = {(int(name), step) for name, steps in steps_in(base).items() for step in steps}
    reachable = sorted((step, number) for number, step in whole if number <= own and whole[number, step])
    for step, number in reachable[-max(keep, 2) :]:
        assert (number, step) in left
    assert {each for each in whole if each[0] >= own} <= left


class Trainer:
    """A fake of VeRL's trainer that saves step 5, then 6."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._steps = iter((5, 6))

    def _save_checkpoint(self) -> None:
        save(self._directory, next(self._steps))


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """The trainer of the second attempt. VeRL's own takes seconds to import: tests/e2e trains with it."""
    for step in (3, 4):
        save(attempt(tmp_path, 1), step)
    module = SimpleNamespace(PPOTrainer=type("PPOTrainer", (Trainer,), {}))
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.v1.trainer_base", module)
    return module.PPOTrainer(attempt(tmp_path, 2))


def changed(directory: Path, keep: int | None) -> Any:
    """A configuration of VeRL."""
    made: Any = config(directory)
    made.trainer.max_actor_ckpt_to_keep = keep
    return made


def test_old_checkpoints_are_removed_after_each_save(tmp_path: Path, trainer: Trainer) -> None:
    keep_newest(changed(attempt(tmp_path, 2), 2), has_critic=False)
    for left in ({"0001": [4], "0002": [5]}, {"0002": [5, 6]}):
        trainer._save_checkpoint()
        assert steps_in(tmp_path) == left


def test_without_a_number_all_are_kept(tmp_path: Path, trainer: Trainer) -> None:
    keep_newest(changed(attempt(tmp_path, 2), None), has_critic=False)
    trainer._save_checkpoint()
    assert steps_in(tmp_path) == {"0001": [3, 4], "0002": [5]}
