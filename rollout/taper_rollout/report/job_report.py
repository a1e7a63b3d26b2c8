"""Builds the reports of an attempt that `taper run` posts to the operator.

Reports are cumulative: each holds the whole state, so that any earlier one may be lost.

Invariants (asserted by `tests/rollout/report/test_job_report.py`):
- sequence numbers ascend, also over reports that were not delivered;
- a report takes bounded time and memory, however long the run.
"""

from __future__ import annotations

import collections
import statistics
import threading
from collections.abc import Callable, Iterable

import numpy as np

from taper_api.status.job_report import JobReport
from taper_api.status.progress import ReplicaLayout, SwitchTotals, TrainingFigures
from taper_policy.layout import groups
from taper_rollout.events import Event, Resumed, StageProgress, StageRecord, Step, SwitchRecord
from taper_rollout.report.summary import REWARD_METRIC, finite

MAX_LAYOUTS = 16
MAX_LAYOUT_CHARACTERS = 64
# Newest pauses that the percentiles are of, and newest steps that the pace is of.
MAX_PAUSES = 10_000
MAX_STEPS = 10
MAX_REMAINING_SECONDS = 10 * 365 * 86_400.0
SAVE_METRIC = "timing_s/save_checkpoint"
STEP_METRIC = "timing_s/step"


class JobReportBuilder:
    """See the module's docstring. One thread records, another may ask for reports.

    clock: monotonic seconds
    """

    def __init__(self, *, attempt: int, steps: int, clock: Callable[[], float]) -> None:
        self._attempt = attempt
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence = 0
        self._training = TrainingFigures(step=0, steps=steps)
        self._step_at: float | None = None
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=MAX_STEPS)
        self._layouts: dict[int, str] = {}
        self._num_switches = self._num_aborted = 0
        self._pauses: collections.deque[float] = collections.deque(maxlen=MAX_PAUSES)
        self._saved_seconds: float | None = None
        self._regret_sum, self._num_regrets = 0.0, 0

    def record(self, events: Iterable[Event]) -> None:
        """Update the state with the events."""
        with self._lock:
            for event in events:
                match event:
                    case Resumed():
                        saved = event.step if event.directory is not None else None
                        self._update(step=event.step, first_step=event.step, last_checkpoint_step=saved)
                    case Step():
                        self._record_step(event)
                    case StageProgress():
                        self._layouts[event.replica] = layout_name(event.num_ranks, event.degree)
                    case StageRecord():
                        self._record_stage(event)

    def report(self, is_last: bool = False) -> JobReport:
        """The attempt's present state, with the next sequence number."""
        with self._lock:
            self._sequence += 1
            return JobReport(
                attempt=self._attempt,
                sequence=self._sequence,
                is_last=is_last,
                remaining_seconds=self._remaining_seconds(),
                training=self._training,
                rollout=self._rollout(),
            )

    def _update(self, **figures: float | None) -> None:
        self._training = self._training.model_copy(update=figures)

    def _record_step(self, step: Step) -> None:
        now = self._clock()
        seconds = self._seconds_of(step, now)
        if seconds is not None and seconds >= 0:
            self._step_seconds.append(seconds)
            self._update(seconds_per_step=statistics.fmean(self._step_seconds))
        self._step_at = now
        self._update(step=step.step, reward=finite(step.metrics.get(REWARD_METRIC)))
        if self._training.first_step is None:
            # No `Resumed` came before the first step: the run started from the beginning.
            self._update(first_step=0)
        if SAVE_METRIC in step.metrics:
            self._update(last_checkpoint_step=step.step)

    def _seconds_of(self, step: Step, now: float) -> float | None:
        if self._step_at is not None:
            return now - self._step_at
        return finite(step.metrics.get(STEP_METRIC))

    def _record_stage(self, stage: StageRecord) -> None:
        for switch in stage.switches:
            if switch.outcome == "committed":
                self._record_switch(switch, stage.num_ranks)
            elif switch.outcome in ("refused", "aborted"):
                self._num_aborted += 1
        if stage.regret is not None:
            self._regret_sum += stage.regret
            self._num_regrets += 1

    def _record_switch(self, switch: SwitchRecord, num_ranks: int) -> None:
        self._num_switches += 1
        self._pauses.append(switch.pause_seconds)
        if switch.gain_seconds is not None:
            # All ranks of the footprint finish earlier by the gain.
            self._saved_seconds = (self._saved_seconds or 0.0) + switch.gain_seconds * num_ranks

    def _remaining_seconds(self) -> float | None:
        training = self._training
        if training.seconds_per_step is None:
            return None
        since = 0.0 if self._step_at is None else self._clock() - self._step_at
        left = max(0, training.steps - training.step) * training.seconds_per_step - since
        return min(max(0.0, left), MAX_REMAINING_SECONDS)

    def _rollout(self) -> SwitchTotals:
        counts = collections.Counter(self._layouts.values()).most_common(MAX_LAYOUTS)
        pauses = list(self._pauses)
        return SwitchTotals(
            layouts=tuple(ReplicaLayout(layout=layout, replicas=count) for layout, count in counts),
            switches=self._num_switches,
            aborted_switches=self._num_aborted,
            pause_p50_seconds=float(np.quantile(pauses, 0.5)) if pauses else None,
            pause_p99_seconds=float(np.quantile(pauses, 0.99)) if pauses else None,
            saved_gpu_seconds=finite(self._saved_seconds),
            regret=finite(self._regret_sum / self._num_regrets) if self._num_regrets else None,
        )


def layout_name(num_ranks: int, degree: int) -> str:
    """A uniform layout as its groups of ranks, such as `(0,1)(2,3)`, cut to `MAX_LAYOUT_CHARACTERS`."""
    name = "".join(f"({','.join(str(rank) for rank in group)})" for group in groups(num_ranks, degree))
    return name[:MAX_LAYOUT_CHARACTERS]
