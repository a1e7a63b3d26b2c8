"""Writes the files of a run in its output directory.

- `metrics.jsonl`: a line per step.
- `traces/stage-<step>-<replica>.json`: a finished stage, as its `StageRecord`; another stage of
  the same step (validation) ends in `-2`, `-3`, ...
- `ledger.jsonl`: the predictor's decisions, each as it is made (`ledger_file`).
- `summary.json` and `stages.png`: at the end, from the files above. `calibration` holds the decode steps
  that each replica measured at its start; `resumed` the checkpoint that the run continued from and those
  that it skipped, None for a run from the beginning.

A run that continues from a checkpoint continues these files: steps that are repeated replace their old
lines and traces. A step whose checkpoint was saved, but whose metrics were lost because the run was
interrupted before VeRL reported them, gets its line from its traces, without VeRL's metrics.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from taper_rollout.events import (
    Calibration,
    Event,
    LedgerEntry,
    Resumed,
    StageRecord,
    Step,
    StepSeconds,
    stage_from_json,
)
from taper_rollout.job.output_files import OutputError, replacing, write_json, writing
from taper_rollout.ledger.ledger_file import LedgerFile
from taper_rollout.report.stage_figures import StageFigures
from taper_rollout.report.summary import step_line, summarise

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
PLOT_FILE = "stages.png"
TRACES = "traces"
MAX_PLOTTED = 6

_logger = logging.getLogger(__name__)


class Recorder:
    """The output directory of one run. Every method raises `OutputError` if it cannot be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._metrics = directory / METRICS_FILE
        self._traces = directory / TRACES
        self._stages = StageFigures()
        self._calibration: dict[int, tuple[StepSeconds, ...]] = {}
        self._resumed: Resumed | None = None
        self._has_steps = self._has_stages = False
        with writing(directory):
            self._traces.mkdir(parents=True, exist_ok=True)
            # Fails now, not after the first step, if the directory is not writable.
            self._metrics.touch()
        self._ledger = LedgerFile(directory)

    def record(self, events: Iterable[Event]) -> None:
        """Write the stages, steps and decisions among the events."""
        for event in events:
            match event:
                case StageRecord():
                    self._record_stage(event)
                case Step():
                    self._record_step(event)
                case LedgerEntry():
                    self._ledger.append(event)
                case Calibration():
                    self._calibration[event.replica] = event.step_seconds
                case Resumed():
                    self._resumed = event

    def finish(self, outcome: str) -> dict[str, Any]:
        """Write summary and plot. Returns the summary. An error of the plot is only logged."""
        figures, newest = StageFigures(), list[StageRecord]()
        for stage in self._recorded_stages():
            figures.add(stage)
            newest = sorted([*newest, stage], key=lambda each: (each.started_at, each.replica))[-MAX_PLOTTED:]
        summary = summarise(self._lines(), figures, outcome=outcome)
        summary["calibration"] = {
            replica: [dataclasses.asdict(step) for step in steps]
            for replica, steps in self._calibration.items()
        }
        summary["resumed"] = None if self._resumed is None else dataclasses.asdict(self._resumed)
        write_json(self.directory / SUMMARY_FILE, summary, indent=2)
        if newest:
            self._plot(newest)
        return summary

    def _record_stage(self, stage: StageRecord) -> None:
        if not self._has_stages:
            self._has_stages = True
            self._remove_traces(stage.step)
            self._ledger.continue_from(stage.step)
        self._stages.add(stage)
        write_json(self._trace_file(stage.step, stage.replica), dataclasses.asdict(stage))

    def _record_step(self, step: Step) -> None:
        """Append the step's line. The stages since the last line belong to the step."""
        if not self._has_steps:
            self._has_steps = True
            self._continue_lines(step.step)
        line = json.dumps(step_line(step.step, step.metrics, self._stages), allow_nan=False)
        self._stages = StageFigures()
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _trace_file(self, step: int, replica: int) -> Path:
        path = self._traces / f"stage-{step:05d}-{replica}.json"
        number = 1
        while path.exists():
            number += 1
            path = self._traces / f"stage-{step:05d}-{replica}-{number}.json"
        return path

    def _trace_files(self) -> list[Path]:
        with writing(self._traces):
            return sorted(self._traces.glob("stage-*.json"))

    def _recorded_stages(self) -> Iterator[StageRecord]:
        for path in self._trace_files():
            with writing(path):
                text = path.read_bytes()
            try:
                stage = stage_from_json(text)
            except ValueError as error:
                reason = "; ".join(str(error).split("\n")[:3])
                raise OutputError(f"--output: {path} is not the trace of a stage: {reason}") from error
            yield stage

    def _lines(self) -> list[dict[str, Any]]:
        """The lines of all steps, without one that a killed run did not finish."""
        with writing(self._metrics):
            content = self._metrics.read_bytes()
        return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]

    def _remove_traces(self, first_step: int) -> None:
        for path in self._trace_files():
            if int(path.name.split("-")[1].removesuffix(".json")) >= first_step:
                with writing(path):
                    path.unlink()

    def _continue_lines(self, first_step: int) -> None:
        kept = [line for line in self._lines() if line["step"] < first_step]
        kept += self._lines_from_traces((kept[-1]["step"] if kept else 0) + 1, first_step)
        with replacing(self._metrics) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)

    def _lines_from_traces(self, first_step: int, end_step: int) -> list[dict[str, Any]]:
        by_step: dict[int, StageFigures] = {}
        for stage in self._recorded_stages() if first_step < end_step else ():
            if first_step <= stage.step < end_step:
                by_step.setdefault(stage.step, StageFigures()).add(stage)
        return [step_line(step, {}, by_step[step]) for step in sorted(by_step)]

    def _plot(self, stages: list[StageRecord]) -> None:
        # Imported late: matplotlib takes a second.
        from taper_rollout.report.plot import plot_stages

        try:
            with writing(self.directory / PLOT_FILE):
                plot_stages(stages, self.directory / PLOT_FILE)
        except OutputError:
            raise
        except Exception:
            _logger.exception("the plot of the stages could not be drawn")
