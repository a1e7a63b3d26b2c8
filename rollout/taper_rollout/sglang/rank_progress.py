"""A rank's progress, counted after each forward pass and published in its record.

Private names touched, read at SGLang 0.5.23: `Scheduler.running_batch`, `waiting_queue`;
`ScheduleBatch.forward_mode`, `seq_lens_sum`, `extend_lens`.
"""

from __future__ import annotations

import time
from typing import Any

from taper_rollout.shared_memory.rank_record import RecordWriter, Step, request_number


class RankProgress:
    """`last_decode_at` is when the last forward pass ended, in seconds of `time.monotonic`."""

    def __init__(self, record: RecordWriter) -> None:
        self._record = record
        self._last_step_at: float | None = None
        self.last_decode_at = time.monotonic()
        self._prefilled = 0

    def step(self, scheduler: Any, batch: Any, *, degree: int) -> None:
        """Count the forward pass of `batch` that has just ended, and publish."""
        now = time.monotonic()
        decode = batch.forward_mode.is_decode()
        seconds = now - self._last_step_at if self._last_step_at is not None else 0.0
        if decode and self._last_step_at is not None:
            context = int(batch.seq_lens_sum or 0)
            self._record.step(
                Step(degree=degree, batch=len(batch.reqs), context_tokens=context, seconds=seconds)
            )
        if not decode:
            self._prefilled += sum(batch.extend_lens)
        self._last_step_at = self.last_decode_at = now
        self._publish(scheduler, degree, step_seconds=seconds, extended=None if decode else batch)

    def idle(self, scheduler: Any, *, degree: int) -> None:
        """Nothing runs: what comes next is no step after the last one."""
        if self._last_step_at is not None:
            self.restart(scheduler, degree=degree)

    def restart(self, scheduler: Any, *, degree: int) -> None:
        """Publish without a step: the layout is new, or nothing runs."""
        self._last_step_at = None
        self._publish(scheduler, degree)

    def _publish(
        self, scheduler: Any, degree: int, *, step_seconds: float = 0.0, extended: Any = None
    ) -> None:
        running = [request for request in scheduler.running_batch.reqs if not request.finished()]
        if extended is not None:
            running += [request for request in extended.reqs if not request.finished()]
        live = [(request_number(request.rid), len(request.output_ids)) for request in running]
        self._record.write(
            degree=degree,
            running=len(running),
            waiting=len(scheduler.waiting_queue),
            live=live,
            longest_tokens=max((decoded for _, decoded in live), default=0),
            prefilled_tokens_total=self._prefilled,
            step_seconds=step_seconds,
        )
