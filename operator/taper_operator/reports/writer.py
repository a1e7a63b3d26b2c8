"""Writes reports into the statuses of jobs, by server-side apply as `taper-progress`.

Each replica writes the reports that it received. A write applies to the job as it was read, so of two
replicas that write at once one gets a conflict, reads again, and checks whether its report is still the newer
one. The time in the status limits all replicas together to one write in 15 s for a job; its last report does
not wait.

Invariants (asserted by `tests/operator/reports/test_writer.py`):
- at most one report of a job waits, the newest;
- a status never goes back to an older report, however many replicas write;
- at most one write in 15 s for a job, not counting its last;
- a failed write is retried with growing delays until its report is replaced or the job is deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Final

from taper_api.status.job_report import REPORT_SECONDS, JobReport
from taper_operator.kube.backoff import Backoff
from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import ApiError, BadRequest, Conflict, Forbidden, Invalid, NotFound
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.work_queue import WorkQueue
from taper_operator.kube.resource import KubeObject, ObjectKey, with_status
from taper_operator.kube.timestamp import utc_now
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.reports.status import (
    ReportNumber,
    current_attempt,
    number_of,
    report_fields,
    seconds_since_written,
    written_number,
)

log = logging.getLogger(__name__)

FIELD_MANAGER: Final = "taper-progress"
_READS_PER_WRITE = 3
_BACKOFF = Backoff(first_seconds=1.0, cap_seconds=60.0, jitter=0.0)
_MAX_WRITTEN = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport:
    """A report and when it was received. uid: of its job"""

    uid: str
    job_report: JobReport
    received_at: datetime


@dataclass(eq=False)
class ReportWriter:
    """See the module's docstring. `run` writes; the other methods may be called from any thread.

    jobs: the cache of RLHFJobs
    observe: called with the result of each attempt to write
    clock: monotonic seconds
    now: the time of day, in UTC
    """

    api_server: ApiServer
    jobs: ObjectCache
    _: KW_ONLY
    observe: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._due: WorkQueue[ObjectKey] = WorkQueue(clock=self.clock, backoff=_BACKOFF)
        self._waiting: dict[ObjectKey, ReceivedReport] = {}
        # The newest reports written, which the cache may not have yet.
        self._written: dict[str, ReportNumber] = {}

    def offer(self, key: ObjectKey, received: ReceivedReport) -> bool:
        """Queue a report; False if a newer one was written or waits. Does not block."""
        number = number_of(received.job_report)
        with self._lock:
            if number <= self._written.get(received.uid, ReportNumber()):
                return False
            waiting = self._waiting.get(key)
            replaces = waiting is not None and waiting.uid == received.uid
            if waiting is not None and replaces and number <= number_of(waiting.job_report):
                return False
            self._waiting[key] = received
        if not replaces or received.job_report.is_last:
            self._due.add(key)
        return True

    def stop(self) -> None:
        """Make `run` return. Waiting reports are dropped: the job's next report reaches another replica."""
        self._due.shut_down()

    def run(self) -> None:
        while (key := self._due.take_or_wait()) is not None:
            self._handle(key)

    # -- one job -----------------------------------------------------------------------

    def _handle(self, key: ObjectKey) -> None:
        with self._lock:
            received = self._waiting.get(key)
        if received is not None:
            result = self._attempt(key, received)
            if result != "early":
                self.observe(result)
        self._due.done(key)

    def _attempt(self, key: ObjectKey, received: ReceivedReport) -> str:
        """Write once, and queue the key again where needed; returns the result for the metric."""
        try:
            result, again_seconds = self._write(key, received)
        except (Invalid, BadRequest, Forbidden) as error:
            log.error("%s: the API server rejected the report: %s: %s", key, type(error).__name__, error)
            result, again_seconds = "refused", None
        except ApiError as error:
            log.warning("%s: the report could not be written: %s: %s", key, type(error).__name__, error)
            self._due.add_after_failure(key)
            return "failed"
        self._due.forget(key)
        if again_seconds is not None:
            self._due.add_after(key, again_seconds)
        else:
            self._drop(key, received)
        return result

    def _drop(self, key: ObjectKey, received: ReceivedReport) -> None:
        """Nothing of the job waits any more, unless a newer report has replaced this one."""
        with self._lock:
            if self._waiting[key] is received:
                del self._waiting[key]
            else:
                self._due.add(key)

    def _write(self, key: ObjectKey, received: ReceivedReport) -> tuple[str, float | None]:
        """The result, and the seconds until the next try, None for no other try. Raises ApiError."""
        resource = self.jobs.get(key)
        for look in range(_READS_PER_WRITE):
            if look:
                try:
                    resource = self.api_server.get(RLHF_JOBS, key)
                except NotFound:
                    resource = None
            if resource is None or resource["metadata"]["uid"] != received.uid:
                return "gone", None
            if _is_old(resource, received.job_report):
                return "stale", None
            wait = self._seconds_to_wait(resource, received.job_report)
            if wait > 0:
                return "early", wait
            try:
                status = report_fields(received.job_report, received.received_at, self.now())
                observed = with_status(resource, status)
                self.api_server.apply_status(RLHF_JOBS, observed, field_manager=FIELD_MANAGER)
            except NotFound:
                return "gone", None
            except Conflict:
                continue
            self._note(received)
            return "written", None
        return "conflict", _BACKOFF.first_seconds

    def _seconds_to_wait(self, resource: KubeObject, report: JobReport) -> float:
        if report.is_last or written_number(resource).attempt != report.attempt:
            return 0.0
        seconds = seconds_since_written(resource, self.now())
        return 0.0 if seconds is None else max(0.0, REPORT_SECONDS - seconds)

    def _note(self, received: ReceivedReport) -> None:
        with self._lock:
            self._written.pop(received.uid, None)
            self._written[received.uid] = number_of(received.job_report)
            while len(self._written) > _MAX_WRITTEN:
                del self._written[next(iter(self._written))]


def _is_old(resource: KubeObject, report: JobReport) -> bool:
    is_of_old_attempt = report.attempt < current_attempt(resource)
    return is_of_old_attempt or number_of(report) <= written_number(resource)
