"""The main job: VeRL trains on SGLang, which switches during generation. Interrupted, it resumes.

The two runs are two attempts, each with a directory of its own for checkpoints, as on a cluster. The
second one reports to an operator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torchdata.stateful_dataloader.sampler import RandomSampler

from taper_api import load_job
from taper_api.job.attempt_directory import AttemptDirectory

from .receiver import receiving

pytestmark = pytest.mark.timeout(1500)
BATCH_PROMPTS = 4
UID = "0a1b2c3d-0000-4000-8000-000000000001"
HALF_WRITTEN_STEP = 9
METRICS_LINE = re.compile(r"^metrics: (http://127\.0\.0\.1:[0-9]+/metrics)$", re.MULTILINE)
Scrape = dict[str, float]


@dataclasses.dataclass
class Story:
    """The files and output of two runs of one job: the first was interrupted in its third step."""

    output: Path
    attempts: tuple[Path, Path]
    checkpoint: int
    first: list[dict[str, Any]]
    second: list[dict[str, Any]]
    first_rows: list[int]
    second_rows: list[int]
    exit_codes: tuple[int, int]
    survivors: list[str]
    segments_left: set[str]
    logs: tuple[str, str]
    scrapes: list[Scrape]
    files_before: dict[Path, int]
    status: dict[str, Any]
    operator_metrics: str


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scrape(log: Path) -> Scrape:
    """The metrics of the run's endpoint, series of a metric added up; empty while it does not listen."""
    found = METRICS_LINE.search(log.read_text())
    if found is None:
        return {}
    try:
        with urllib.request.urlopen(found[1], timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except OSError:  # a run that ended too early says so itself
        return {}
    sums: Scrape = {}
    for sample in (sample for family in families for sample in family.samples):
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


@pytest.fixture(scope="module")
def story(
    sample: Path, start: Callable[..., Any], shared_memory: Callable[[], set[str]], tmp_path_factory: Any
) -> Story:
    directory = tmp_path_factory.mktemp("story")
    attempts = tuple(directory / "shared" / AttemptDirectory(UID, number).name for number in (1, 2))
    output, probe, rows = directory / "output", directory / "weights.jsonl", directory / "rows.txt"
    environment = {"WEIGHT_PROBE_FILE": str(probe), "ROW_FILE": str(rows)}
    before = shared_memory()
    command = ("taper_rollout.cli", "run", "-f", sample / "job.yaml", "--output", output)

    def saving_to(attempt: Path) -> tuple[str, str]:
        return ("--set", f"spec.training.checkpoints.directory={attempt}")

    interrupted = start(*command, *saving_to(attempts[0]), **environment)
    scrapes: list[Scrape] = []

    def has_two_steps() -> bool:
        scrapes.append(scrape(interrupted.log))
        return len(lines(output / "metrics.jsonl")) >= 2

    interrupted.wait_until(has_two_steps, "second step")
    os.killpg(interrupted.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to all of the group
    first_code = interrupted.end()
    survivors = interrupted.survivors()
    segments_left = shared_memory() - before
    checkpoint = int((attempts[0] / "latest_checkpointed_iteration.txt").read_text())
    (attempts[0] / f"global_step_{HALF_WRITTEN_STEP}" / "actor").mkdir(parents=True)
    files_before = {file: file.stat().st_mtime_ns for file in attempts[0].rglob("*")}
    first, first_rows = lines(probe), [int(line) for line in rows.read_text().split()]

    probe.unlink()
    rows.unlink()
    with receiving(directory / "receiver", attempt=2) as receiver:
        environment |= receiver.environment
        resumed = start(*command, *saving_to(attempts[1]), **environment)
        second_code = resumed.end()
        receiver.wait_for_step(4)
        status, operator_metrics = receiver.status(), receiver.metrics()
    survivors += resumed.survivors()
    segments_left |= shared_memory() - before
    return Story(
        output=output,
        attempts=(attempts[0], attempts[1]),
        checkpoint=checkpoint,
        first=first,
        second=lines(probe),
        first_rows=first_rows,
        second_rows=[int(line) for line in rows.read_text().split()],
        exit_codes=(first_code, second_code),
        survivors=survivors,
        segments_left=segments_left,
        logs=(interrupted.log.read_text(), resumed.log.read_text()),
        scrapes=scrapes,
        files_before=files_before,
        status=status,
        operator_metrics=operator_metrics,
    )


def test_the_exit_codes(story: Story) -> None:
    assert story.exit_codes == (130, 0), story.logs
    assert "Traceback" not in "".join(story.logs)


def test_nothing_is_left_behind(story: Story) -> None:
    assert story.survivors == []
    assert story.segments_left == set()


def test_metrics_can_be_read_while_the_job_runs_and_not_afterwards(story: Story) -> None:
    for log in story.logs:
        (url,) = METRICS_LINE.findall(log)
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(url, timeout=30)
    assert max(scrape.get("taper_running_requests", 0) for scrape in story.scrapes) >= 8
    assert {scrape.get("taper_layout_degree") for scrape in story.scrapes} >= {1.0, 2.0}
    last = story.scrapes[-1]
    paused = next(scrape for scrape in story.scrapes if scrape.get("taper_stage_seconds_count") == 2)
    stages = [
        json.loads((story.output / "traces" / f"stage-{step:05d}-0.json").read_text()) for step in (1, 2)
    ]
    switches = [switch for stage in stages for switch in stage["switches"]]
    assert last["taper_footprint_ranks"] == 2
    assert last["taper_training_step"] == 2
    assert last["taper_switches_total"] >= 2
    assert last["taper_responses_total"] >= 32
    assert last["taper_stage_seconds_count"] >= 2
    assert paused["taper_pause_seconds_count"] == 2
    assert paused["taper_pause_seconds_sum"] == pytest.approx(sum(s["pause_seconds"] for s in switches))
    assert paused["taper_pause_phase_seconds_total"] >= 0.999 * paused["taper_pause_seconds_sum"] > 0
    assert last["taper_moved_bytes_total"] >= sum(switch["moved_bytes"] for switch in switches) > 0


def test_every_step_was_trained_once_in_the_files(story: Story) -> None:
    summary = json.loads((story.output / "summary.json").read_text())
    assert summary["steps"] == 4
    assert [line["step"] for line in lines(story.output / "metrics.jsonl")] == [1, 2, 3, 4]


def test_each_stage_starts_narrow_and_switches(story: Story) -> None:
    summary = json.loads((story.output / "summary.json").read_text())
    assert summary["steps_with_switches"] == 4
    for step in range(1, 5):
        stage = json.loads((story.output / "traces" / f"stage-{step:05d}-0.json").read_text())
        assert len(stage["requests"]) == 16
        assert stage["batch"][0]["degree"] == 1
        switches = [(s["from_degree"], s["to_degree"], s["outcome"]) for s in stage["switches"]]
        assert switches == [(1, 2, "committed")]


def test_log_probs_of_rollout_and_trainer_agree(story: Story) -> None:
    """Weights are fresh, and switches change nothing."""
    steps = [line["metrics"] for line in lines(story.output / "metrics.jsonl") if line["metrics"]]
    assert len(steps) >= 3  # the interrupt may come between a step's checkpoint and its metrics
    assert all(metrics["training/rollout_probs_diff_max"] < 1e-3 for metrics in steps)


def test_the_next_step_is_the_one_after_the_checkpoint(story: Story) -> None:
    assert story.checkpoint >= 2
    assert [update["version"] for update in story.second if update["rank"] == 0] == list(
        range(story.checkpoint, 5)
    )


def test_an_attempt_resumes_from_the_one_before_and_writes_into_its_own_directory(story: Story) -> None:
    first, second = story.attempts
    old = first / "global_step_1"
    kept = {file: time for file, time in story.files_before.items() if not file.is_relative_to(old)}
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == kept
    # The last three of all are to be kept: the first step's was there until the fourth was saved.
    assert old in story.files_before
    saved = {int(place.name.removeprefix("global_step_")) for place in second.glob("global_step_*")}
    assert saved == set(range(story.checkpoint + 1, 5))
    resumed = json.loads((story.output / "summary.json").read_text())["resumed"]
    assert (resumed["step"], resumed["directory"]) == (
        story.checkpoint,
        str(first / f"global_step_{story.checkpoint}"),
    )
    newest = resumed["passed_over"][0]
    assert newest["directory"] == str(first / f"global_step_{HALF_WRITTEN_STEP}")
    assert f"resuming after step {story.checkpoint} from {first}" in story.logs[1]


def test_the_operator_receives_the_progress_of_the_attempt_to_its_end(story: Story) -> None:
    assert "not reported" not in story.logs[1]
    progress, rollout = story.status["progress"], story.status["rollout"]
    assert (progress["attempt"], progress["step"], progress["steps"]) == (2, 4, 4)
    assert progress["lastCheckpointStep"] == 4
    assert progress["secondsPerStep"] > 0
    assert rollout["switches"] == 4 - story.checkpoint
    assert rollout["pauseP99Seconds"] >= rollout["pauseP50Seconds"] > 0
    assert [each["layout"] for each in rollout["layouts"]] in (["(0)(1)"], ["(0,1)"])
    accepted = re.search(r'taper_operator_reports_total{result="accepted"} ([0-9.]+)', story.operator_metrics)
    assert accepted is not None
    assert float(accepted[1]) >= 2


def test_the_data_continues_in_the_same_order(story: Story, sample: Path) -> None:
    job = load_job(sample / "job.yaml")
    num_rows = 512
    sampler = RandomSampler(range(num_rows), generator=torch.Generator().manual_seed(job.spec.data.seed))
    order = list(sampler)

    def rows_of(step: int) -> list[int]:
        return sorted(order[BATCH_PROMPTS * (step - 1) : BATCH_PROMPTS * step])

    per_step = BATCH_PROMPTS * job.spec.rollout.samples_per_prompt
    for offset, step in enumerate(range(1, story.checkpoint + 1)):
        assert sorted(set(story.first_rows[offset * per_step : (offset + 1) * per_step])) == rows_of(step)
    for offset, step in enumerate(range(story.checkpoint + 1, 5)):
        assert sorted(set(story.second_rows[offset * per_step : (offset + 1) * per_step])) == rows_of(step)


def test_weights_are_bit_equal_to_the_checkpoint(story: Story) -> None:
    """The first weights that the second run sends are those of the first run's last checkpoint."""

    def weights(updates: list[dict[str, Any]], version: int) -> list[dict[str, str]]:
        return [update["digests"] for update in updates if update["version"] == version]

    saved, restored = weights(story.first, story.checkpoint), weights(story.second, story.checkpoint)
    assert len(restored) == 2  # one a rank
    assert all(digests == restored[0] for digests in restored)
    assert len(restored[0]) > 10
    # The interrupt may come between the checkpoint and the hand-over of the same weights.
    assert all(digests == restored[0] for digests in saved)
    assert weights(story.first, story.checkpoint - 1)[0] != restored[0]
    assert digests_of_checkpoint(story.attempts[0], story.checkpoint) == restored[0]


def digests_of_checkpoint(directory: Path, step: int) -> dict[str, str]:
    """The full tensors of a checkpoint, from the two files of its ranks."""
    actor = directory / f"global_step_{step}" / "actor"
    shards = [
        torch.load(actor / f"model_world_size_2_rank_{rank}.pt", weights_only=False) for rank in range(2)
    ]
    digests = {}
    for name, first in shards[0].items():
        parts = [first._local_tensor, shards[1][name]._local_tensor]
        is_sharded = parts[0].shape != first.shape
        tensor = torch.cat(parts) if is_sharded else parts[0]
        assert is_sharded or torch.equal(*parts)
        assert tensor.shape == first.shape
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digests[name] = hashlib.sha256(header + data).hexdigest()
    return digests
