"""The events of a run as the reports read them, parsed once from the JSON form in which they are posted.

Replicas, trainer, metrics hosts and the session post dictionaries with a `kind`
(`taper_rollout.verl.reporter`). Kinds that no report shows, such as `LedgerEntry`, are not parsed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taper_rollout.report.stage import StageReport

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """How a stage is doing. `finished`: its responses so far."""

    replica: int
    running: int
    finished: int
    degree: int
    num_ranks: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """A finished training step, with VeRL's metrics."""

    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationEvent:
    """Seconds of a decode step that a replica measured at its start, by (batch, degree)."""

    replica: int
    step_seconds: Mapping[tuple[int, int], float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The checkpoint that the run continues from, and newer ones that it skipped, as (directory, reason).

    directory: None, with `step` 0, where there is no complete checkpoint
    """

    step: int
    directory: str | None
    skipped: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricsServed:
    """Where metrics are served. `node`: the node's address, None in a run on one node."""

    url: str
    node: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the run is waiting for, as a line of text."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost:
    """How many events were dropped because the inbox was full."""

    count: int


RunEvent = (
    ProgressEvent
    | StageReport
    | StepEvent
    | CalibrationEvent
    | Resumed
    | MetricsServed
    | Waiting
    | EventsLost
)


def parse_events(records: Iterable[Record]) -> list[RunEvent]:
    """The events that reports show, in order. Raises `KeyError` for a record that lacks a field."""
    return [_PARSERS[record["kind"]](record) for record in records if record["kind"] in _PARSERS]


def _progress(record: Record) -> ProgressEvent:
    names = ("replica", "running", "finished", "degree", "num_ranks")
    return ProgressEvent(**{name: record[name] for name in names})


def _step(record: Record) -> StepEvent:
    return StepEvent(step=record["step"], metrics=record["metrics"])


def _calibration(record: Record) -> CalibrationEvent:
    cells = {(cell["batch"], cell["degree"]): cell["seconds"] for cell in record["step_seconds"]}
    return CalibrationEvent(replica=record["replica"], step_seconds=cells)


def _resumed(record: Record) -> Resumed:
    skipped = tuple((each["directory"], each["reason"]) for each in record["passed_over"])
    return Resumed(step=record["step"], directory=record["directory"], skipped=skipped)


def _metrics_served(record: Record) -> MetricsServed:
    return MetricsServed(url=record["url"], node=record["node"])


_PARSERS: Mapping[str, Callable[[Record], RunEvent]] = {
    "StageProgress": _progress,
    "StageRecord": StageReport.from_json,
    "Step": _step,
    "Calibration": _calibration,
    "Resumed": _resumed,
    "MetricsServed": _metrics_served,
    "Waiting": lambda record: Waiting(text=record["text"]),
    "EventsLost": lambda record: EventsLost(count=record["count"]),
}
