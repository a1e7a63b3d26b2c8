import errno
import json
import os
from pathlib import Path

import pytest

from taper_rollout.events import Calibration, Resumed, SkippedCheckpoint, StepSeconds
from taper_rollout.job.output_files import OutputError, write_json
from taper_rollout.report.recorder import Recorder

from .stage_builder import START, make_stage, make_step


def record_steps(directory: Path, *steps: int) -> Recorder:
    recorder = Recorder(directory)
    for step in steps:
        recorder.record([make_stage(step=step, started_at=START + 100 * step), make_step(step, step / 10)])
    return recorder


def recorded_steps(directory: Path) -> list[int]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def trace_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "traces").iterdir())


def test_a_run_leaves_a_line_and_a_trace_per_step_then_summary_and_plot(tmp_path):
    recorder = record_steps(tmp_path, 1, 2)
    summary = recorder.finish("completed")
    assert recorded_steps(tmp_path) == [1, 2]
    assert trace_names(tmp_path) == ["stage-00001-0.json", "stage-00002-0.json"]
    trace = json.loads((tmp_path / "traces" / "stage-00001-0.json").read_text())
    assert trace["requests"][0]["prompt"] and trace["batch"] and trace["switches"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["steps"] == 2 and summary["switches"] == 2
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.partial"))


def test_stages_of_all_replicas_since_the_last_line_belong_to_the_step(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.record([make_stage(replica=0), make_stage(replica=1)])
    recorder.record([make_step(1), make_step(2)])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["switches"] for line in lines] == [2, 0]


def test_a_second_stage_in_a_step_gets_a_trace_of_its_own(tmp_path):
    Recorder(tmp_path).record([make_stage(), make_stage(), make_stage()])
    assert trace_names(tmp_path) == ["stage-00001-0-2.json", "stage-00001-0-3.json", "stage-00001-0.json"]


def test_a_resumed_run_continues_the_files_and_replaces_repeated_steps(tmp_path):
    record_steps(tmp_path, 1, 2, 3).finish("interrupted")
    summary = record_steps(tmp_path, 3, 4).finish("completed")
    assert recorded_steps(tmp_path) == [1, 2, 3, 4]
    assert len(trace_names(tmp_path)) == 4
    assert summary["steps"] == 4 and summary["switches"] == 4
    assert (summary["reward_first"], summary["reward_last"]) == (0.1, 0.4)


def test_a_step_whose_metrics_were_lost_gets_its_line_from_its_traces(tmp_path):
    record_steps(tmp_path, 1, 2)
    Recorder(tmp_path).record([make_stage(step=3)])
    summary = record_steps(tmp_path, 4).finish("completed")
    assert recorded_steps(tmp_path) == [1, 2, 3, 4]
    assert (summary["steps"], summary["switches"], summary["steps_with_switches"]) == (4, 4, 4)
    assert (summary["reward_first"], summary["reward_last"]) == (0.1, 0.4)


def cut_off_last_line(directory: Path) -> None:
    """As a run that is killed while it writes it."""
    file = directory / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-20])


def test_a_line_that_was_cut_off_is_written_again_from_its_traces(tmp_path):
    record_steps(tmp_path, 1, 2, 3)
    cut_off_last_line(tmp_path)
    summary = record_steps(tmp_path, 4).finish("completed")
    assert recorded_steps(tmp_path) == [1, 2, 3, 4]
    assert (summary["steps"], summary["reward_last"]) == (4, 0.4)


def test_a_line_that_was_cut_off_does_not_hide_the_end_of_a_run_without_steps(tmp_path):
    record_steps(tmp_path, 1, 2)
    cut_off_last_line(tmp_path)
    assert Recorder(tmp_path).finish("failed")["steps"] == 1


def test_a_run_from_the_start_replaces_an_older_one(tmp_path):
    record_steps(tmp_path, 1, 2, 3).finish("completed")
    record_steps(tmp_path, 1).finish("completed")
    assert recorded_steps(tmp_path) == [1]
    assert trace_names(tmp_path) == ["stage-00001-0.json"]


def test_a_plot_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("taper_rollout.report.plot.plot_stages", fail)
    assert record_steps(tmp_path, 1).finish("completed")["steps"] == 1
    assert "the plot of the stages could not be drawn" in caplog.text


def test_the_newest_stages_are_plotted(tmp_path, monkeypatch):
    plotted = []
    monkeypatch.setattr("taper_rollout.report.plot.plot_stages", lambda stages, path: plotted.extend(stages))
    record_steps(tmp_path, 7, 8, 9).finish("completed")
    record_steps(tmp_path, *range(10, 15)).finish("completed")
    assert [stage.step for stage in plotted] == [7, 8, 9, *range(9, 15)]


def test_a_damaged_trace_is_an_error_that_names_it(tmp_path):
    recorder = record_steps(tmp_path, 1)
    (tmp_path / "traces" / "stage-00001-0.json").write_text('{"replica": 0, "step": "none"}')
    with pytest.raises(OutputError, match=r"stage-00001-0\.json is not the trace of a stage: .*step"):
        recorder.finish("completed")


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"--output: .*out cannot be written: "):
        Recorder(tmp_path / "out")


def test_a_json_file_is_replaced_atomically(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"summary\.json cannot be written: No space left on device"):
        write_json(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_is_one_clear_error(small_disk):
    recorder = Recorder(small_disk)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        for step in range(1, 100):
            recorder.record([make_stage(step=step), make_step(step)])
    assert not list(small_disk.rglob("*.partial"))


def test_the_summary_names_the_checkpoint_that_the_run_resumed_from(tmp_path):
    assert record_steps(tmp_path, 1).finish("completed")["resumed"] is None
    recorder = Recorder(tmp_path)
    skipped = SkippedCheckpoint(directory="/c/global_step_2", reason="is damaged")
    recorder.record([Resumed(step=1, directory="/c/global_step_1", passed_over=(skipped,))])
    recorder.finish("completed")
    assert json.loads((tmp_path / "summary.json").read_text())["resumed"] == {
        "step": 1,
        "directory": "/c/global_step_1",
        "passed_over": [{"directory": "/c/global_step_2", "reason": "is damaged"}],
    }


def test_the_summary_keeps_what_replicas_measured_at_their_start(tmp_path):
    recorder = Recorder(tmp_path)
    step = StepSeconds(degree=1, batch=4, seconds=0.05, num_samples=9)
    recorder.record([Calibration(replica=0, step_seconds=(step,))])
    recorder.finish("completed")
    assert json.loads((tmp_path / "summary.json").read_text())["calibration"] == {
        "0": [{"degree": 1, "batch": 4, "seconds": 0.05, "num_samples": 9}]
    }
