"""`ledger.jsonl` of a run: every decision of its replicas, a JSON line an entry, as it was made.

A line is `{"replica": ..., "at": ..., "entry": ...}` with the fields of the entry. It is written when the
driver receives it, without buffering. A run that resumes from a checkpoint continues the file: entries of the
steps that are repeated are removed, and its replicas begin with `start` entries of their own.

Invariants (asserted by `tests/rollout/ledger/test_ledger_file.py`):
- a killed run loses no more than the line that it was writing;
- a reader reports such a line, and refuses a corrupt line anywhere else, with its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taper_api import JobError, Problem
from taper_policy.decision.ledger import LedgerRecord, entry_from_json
from taper_policy.review.replica_history import ReplicaHistory, replica_histories
from taper_rollout.events import LedgerEntry
from taper_rollout.job.output_files import replacing, writing

LEDGER_FILE = "ledger.jsonl"
CUT_OFF = "the last line of the ledger is incomplete, as after a killed run, and was ignored"


class LedgerFile:
    """The ledger that a run writes. Raises `OutputError` where it cannot."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LEDGER_FILE
        self._is_continued = False
        self._num_old_bytes = 0
        if self.path.exists():
            with writing(self.path):
                self._num_old_bytes = _drop_broken_end(self.path)

    def append(self, event: LedgerEntry) -> None:
        """Write an entry."""
        if "step" in event.entry:
            self.continue_from(event.entry["step"])
        # Numbers that are not finite are Python's to write and to read: no fault of a forecast ends a run.
        line = json.dumps({"replica": event.replica, "at": event.at, **event.entry}, separators=(",", ":"))
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def continue_from(self, first_step: int) -> None:
        """Remove an earlier run's entries of `first_step` and later. Only the first call has an effect."""
        if self._is_continued:
            return
        self._is_continued = True
        if not self._num_old_bytes:
            return
        with replacing(self.path) as new, self.path.open("rb") as old:
            new.writelines(_kept(old.read(self._num_old_bytes).splitlines(keepends=True), first_step))
            new.write(old.read())


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLedger:
    """A ledger as it was read: its replicas' histories, and whether its last line was cut off."""

    histories: list[ReplicaHistory]
    is_cut_off: bool


def read_ledger(directory: Path) -> ReadLedger:
    """The ledger in a run's output directory. Raises `JobError` for one that is missing or corrupt."""
    path = directory / LEDGER_FILE
    if not directory.is_dir():
        raise _problem(f"there is no directory {directory}")
    if not path.is_file():
        raise _problem(
            f"{directory} has no {LEDGER_FILE}: only a run with the predictor policy and a profile writes one"
        )
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise _problem(f"{path} cannot be read: {error.strerror}") from error
    is_cut_off = bool(lines) and not lines[-1].endswith(b"\n")
    if is_cut_off:
        lines.pop()
    try:
        found = replica_histories(_entries(lines))
    except ValueError as error:
        raise _problem(f"{path.name}: {error}") from None
    if not found:
        raise _problem(f"{path} has no entry")
    return ReadLedger(histories=found, is_cut_off=is_cut_off)


def _entries(lines: list[bytes]) -> Iterator[tuple[int, LedgerRecord]]:
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or not isinstance(values.get("replica"), int):
                raise ValueError("replica: missing")
            yield values["replica"], entry_from_json(values)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is corrupt: {error}") from None


def _problem(message: str) -> JobError:
    return JobError([Problem(path="RUN", message=message)])


def _drop_broken_end(path: Path) -> int:
    """Cut off a last line that was not finished, or the next one would continue it. The bytes that stay."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return whole


def _kept(lines: list[bytes], first_step: int) -> Iterator[bytes]:
    """The lines of earlier steps; of a replica's history that has none not even its start."""
    starts: dict[int, bytes] = {}
    for line in lines:
        replica, step = _place(line)
        if step is None:
            starts[replica] = line
        elif step < first_step:
            if replica in starts:
                yield starts.pop(replica)
            yield line


def _place(line: bytes) -> tuple[int, int | None]:
    """Replica and step of a line, no step of a start. A corrupt line stays, and is reported to its reader."""
    try:
        values = json.loads(line)
        return int(values["replica"]), values["step"] if values["entry"] != "start" else None
    except (ValueError, TypeError, KeyError):
        return -1, -1
