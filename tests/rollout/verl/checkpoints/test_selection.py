"""The checkpoint to resume from: the newest complete one of all attempts, without writing anything."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from taper_api import JobError
from taper_api.job.attempt_directory import AttemptDirectory
from taper_rollout.verl.checkpoints.resume import resume, resumed_event
from taper_rollout.verl.checkpoints.selection import DATA_FILE, TRACKER_FILE, ResumePoint, Shards, resumption

UID = "0a1b2c3d-0000-4000-8000-000000000001"
ACTOR = Shards(name="actor", contents=("model", "optimizer", "extra"), num_ranks=2)
CRITIC = Shards(name="critic", contents=("model",), num_ranks=2)
MODEL_1 = "actor/model_world_size_2_rank_1.pt"


def attempt(base: Path, number: int, uid: str = UID) -> Path:
    return base / AttemptDirectory(uid, number).name


def save(folder: Path, step: int, *, is_recorded: bool = True, shards: tuple[Shards, ...] = (ACTOR,)) -> Path:
    """A checkpoint as VeRL saves it. is_recorded: its step is in VeRL's tracker file"""
    place = folder / f"global_step_{step}"
    for file in (*(file for part in shards for file in part.files()), DATA_FILE):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(place / file, "w") as archive:
            archive.writestr("archive/data.pkl", b"pickled")
            archive.writestr("archive/data/0", bytes(4096))
    if is_recorded:
        (folder / TRACKER_FILE).write_text(str(step))
    return place


def steps_of(found: ResumePoint) -> tuple[int | None, list[str]]:
    newer = [each.directory.name.removeprefix("global_step_") for each in found.skipped]
    return (found.checkpoint.step if found.checkpoint else None), newer


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def make_hole(file: Path) -> None:
    """A file whose length was written before its content, as after a crash of the machine."""
    content = file.read_bytes()
    file.write_bytes(bytes(2048) + content[2048:])


def of_an_empty_archive(file: Path) -> None:
    zipfile.ZipFile(file, "w").close()


def test_without_a_checkpoint_training_starts_from_the_beginning(tmp_path: Path) -> None:
    assert resumption(tmp_path / "none", (ACTOR,)) == ResumePoint(checkpoint=None)
    (tmp_path / "global_step_x").mkdir()
    (tmp_path / "global_step_3").write_text("a file")
    assert resumption(tmp_path, (ACTOR,)) == ResumePoint(checkpoint=None)


def test_a_run_resumes_from_its_own_directory(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path, step)
    found = resumption(tmp_path, (ACTOR,))
    assert steps_of(found) == (11, [])
    assert found.checkpoint is not None
    assert found.checkpoint.directory == tmp_path / "global_step_11"


def test_an_attempt_resumes_from_the_newest_of_earlier_attempts(tmp_path: Path) -> None:
    save(attempt(tmp_path, 1), 4)
    save(attempt(tmp_path, 2), 6)
    attempt(tmp_path, 3).mkdir()
    found = resumption(attempt(tmp_path, 4), (ACTOR,))
    assert found.checkpoint is not None
    assert found.checkpoint.directory == attempt(tmp_path, 2) / "global_step_6"


def test_of_equal_steps_the_later_attempts_is_used(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        save(attempt(tmp_path, number), 4)
    found = resumption(attempt(tmp_path, 11), (ACTOR,))
    assert found.checkpoint is not None
    assert found.checkpoint.directory.parent == attempt(tmp_path, 10)


def test_checkpoints_of_another_job_or_a_later_attempt_are_not_used(tmp_path: Path) -> None:
    save(attempt(tmp_path, 1, "another-job"), 8)
    save(attempt(tmp_path, 3), 8)
    save(tmp_path / "checkpoints", 8)
    save(tmp_path, 8)
    assert resumption(attempt(tmp_path, 2), (ACTOR,)) == ResumePoint(checkpoint=None)


def test_a_directory_of_another_name_has_no_siblings(tmp_path: Path) -> None:
    save(attempt(tmp_path, 1), 8)
    assert resumption(tmp_path / "checkpoints", (ACTOR,)) == ResumePoint(checkpoint=None)


@pytest.mark.parametrize("damage", [truncate, empty, make_hole, of_an_empty_archive, Path.unlink])
@pytest.mark.parametrize("file", [MODEL_1, "actor/extra_state_world_size_2_rank_0.pt", DATA_FILE])
def test_a_damaged_checkpoint_is_listed_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    save(attempt(tmp_path, 1), 2)
    damage(save(attempt(tmp_path, 1), 4) / file)
    found = resumption(attempt(tmp_path, 2), (ACTOR,))
    assert steps_of(found) == (2, ["4"])
    assert file in found.skipped[0].reason


def test_an_unfinished_checkpoint_is_not_used(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4, is_recorded=False)
    assert steps_of(resumption(tmp_path, (ACTOR,))) == (2, ["4"])
    (tmp_path / "global_step_6" / "actor").mkdir(parents=True)
    (tmp_path / TRACKER_FILE).write_text("")
    found = resumption(tmp_path, (ACTOR,))
    assert steps_of(found) == (4, ["6"])
    assert "was not finished" in found.skipped[0].reason


def test_checkpoints_that_verl_removed_are_not_listed(tmp_path: Path) -> None:
    """VeRL removes the shards and leaves the rest."""
    for file in (save(tmp_path, 2) / "actor").iterdir():
        file.unlink()
    (tmp_path / "global_step_2" / "actor").rmdir()
    assert resumption(tmp_path, (ACTOR,)) == ResumePoint(checkpoint=None)


def test_a_critic_must_be_complete_too(tmp_path: Path) -> None:
    save(tmp_path, 2, shards=(ACTOR, CRITIC))
    save(tmp_path, 4)
    assert steps_of(resumption(tmp_path, (ACTOR,))) == (4, [])
    assert steps_of(resumption(tmp_path, (ACTOR, CRITIC))) == (2, ["4"])


def test_another_number_of_ranks_is_refused_by_its_field(tmp_path: Path) -> None:
    save(tmp_path, 2)
    four = Shards(name="actor", contents=("model",), num_ranks=4)
    with pytest.raises(
        JobError, match=r"^spec\.training\.ranks: .*global_step_2 was saved by 2 ranks.* has 4; "
    ):
        resumption(tmp_path, (four,))


def test_checkpoints_saved_by_torch_are_complete(tmp_path: Path) -> None:
    part = Shards(name="actor", contents=("model",), num_ranks=1)
    place = tmp_path / "global_step_1"
    (place / "actor").mkdir(parents=True)
    torch.save({"weight": torch.ones(300, 300), "none": {}}, place / "actor" / "model_world_size_1_rank_0.pt")
    torch.save({}, place / DATA_FILE)
    assert steps_of(resumption(tmp_path, (part,))) == (1, [])
    make_hole(place / "actor" / "model_world_size_1_rank_0.pt")
    assert steps_of(resumption(tmp_path, (part,))) == (None, ["1"])


@given(
    saved=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.sampled_from(["whole", "damaged"])), max_size=8
    ),
    own=st.integers(1, 4),
)
def test_the_newest_complete_one_is_selected_and_nothing_is_written(
    tmp_path_factory: pytest.TempPathFactory, saved: list[tuple[int, int, str]], own: int
) -> None:
    base = tmp_path_factory.mktemp("base")
    state: dict[tuple[int, int], bool] = {}
    for number, step, how in saved:
        place = save(attempt(base, number), step, is_recorded=False)
        if how == "damaged":
            truncate(place / MODEL_1)
        state[step, number] = how == "whole"
    before = {file: file.stat().st_mtime_ns for file in base.rglob("*")}
    found = resumption(attempt(base, own), (ACTOR,))
    reachable = sorted(((s, n) for s, n in state if n <= own), reverse=True)
    best = next((key for key in reachable if state[key]), None)
    newer = reachable[: reachable.index(best)] if best else reachable
    assert (found.checkpoint.directory if found.checkpoint else None) == (
        attempt(base, best[1]) / f"global_step_{best[0]}" if best else None
    )
    assert [each.directory for each in found.skipped] == [
        attempt(base, number) / f"global_step_{step}" for step, number in newer
    ]
    assert {file: file.stat().st_mtime_ns for file in base.rglob("*")} == before


def config(directory: Path, **trainer: str) -> object:
    part = {"strategy": "fsdp2", "checkpoint": {"load_contents": ["model", "optimizer", "extra"]}}
    trainer = {"resume_mode": "auto", "default_local_dir": str(directory)} | trainer
    content = {
        "trainer": trainer | {"nnodes": 1, "n_gpus_per_node": 2, "resume_from_path": None},
        "actor_rollout_ref": {"actor": part},
    }
    return OmegaConf.create(content)


def test_verl_resumes_from_the_selected_checkpoint(tmp_path: Path) -> None:
    save(attempt(tmp_path, 1), 4)
    changed = config(attempt(tmp_path, 2))
    found = resume(changed, has_critic=False)
    assert found is not None
    assert (changed.trainer.resume_mode, changed.trainer.resume_from_path) == (  # type: ignore[attr-defined]
        "resume_path",
        str(attempt(tmp_path, 1) / "global_step_4"),
    )
    assert changed.trainer.default_local_dir == str(attempt(tmp_path, 2))  # type: ignore[attr-defined]
    assert resumed_event(found).step == 4


def test_without_a_complete_checkpoint_verl_does_not_search_itself(tmp_path: Path) -> None:
    truncate(save(tmp_path, 4) / MODEL_1)
    changed = config(tmp_path)
    found = resume(changed, has_critic=False)
    assert found is not None
    assert changed.trainer.resume_mode == "disable"  # type: ignore[attr-defined]
    assert resumed_event(found).directory is None
    assert len(resumed_event(found).passed_over) == 1


def test_resume_never_starts_from_the_beginning(tmp_path: Path) -> None:
    save(tmp_path, 4)
    changed = config(tmp_path, resume_mode="disable")
    assert resume(changed, has_critic=False) is None
    assert changed.trainer.resume_from_path is None  # type: ignore[attr-defined]
