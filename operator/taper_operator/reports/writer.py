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
from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import ApiError, BadRequest, Conflict, Forbidden, Invalid, NotFound
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey
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
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_IDLE_SECONDS = 5.0
_MAX_WRITTEN = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport:
    """A report and when it was received. uid: of its job"""

    uid: str
    job_report: JobReport
    received_at: datetime


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """due: monotonic seconds"""

    received: ReceivedReport
    due: float
    num_failures: int = 0


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
        self._changed = threading.Condition()
        self._waiting: dict[ObjectKey, _Waiting] = {}
        # The newest reports written, which the cache may not have yet.
        self._written: dict[str, ReportNumber] = {}
        self._is_stopping = False

    def offer(self, key: ObjectKey, received: ReceivedReport) -> bool:
        """Queue a report; False if a newer one was written or waits. Does not block."""
        number = number_of(received.job_report)
        with self._changed:
            waiting = self._waiting.get(key)
            if number <= self._written.get(received.uid, ReportNumber()):
                return False
            if waiting is None or waiting.received.uid != received.uid:
                self._waiting[key] = _Waiting(received=received, due=self.clock())
            elif number <= number_of(waiting.received.job_report):
                return False
            else:
                waiting.received = received
                if received.job_report.is_last:
                    waiting.due = self.clock()
            self._changed.notify()
        return True

    def stop(self) -> None:
        """Make `run` return. Waiting reports are dropped: the job's next report reaches another replica."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Write what is due, until `stop`."""
        while not self._is_stopping:
            seconds = self.write_due()
            with self._changed:
                if not self._is_stopping and self._next_due() > self.clock():
                    self._changed.wait(seconds)

    def write_due(self) -> float:
        """Write what is due now; returns the seconds until more is."""
        with self._changed:
            due = [key for key, waiting in self._waiting.items() if waiting.due <= self.clock()]
        for key in due:
            if self._is_stopping:
                break
            self._handle(key)
        with self._changed:
            return max(0.0, min(_IDLE_SECONDS, self._next_due() - self.clock()))

    def _next_due(self) -> float:
        return min((waiting.due for waiting in self._waiting.values()), default=float("inf"))

    # -- one job -----------------------------------------------------------------------

    def _handle(self, key: ObjectKey) -> None:
        with self._changed:
            waiting = self._waiting[key]
            received = waiting.received
        try:
            result, again_seconds = self._write(key, received)
        except (Invalid, BadRequest, Forbidden) as error:
            log.error("%s: the API server rejected the report: %s: %s", key, type(error).__name__, error)
            result, again_seconds = "refused", None
        except ApiError as error:
            log.warning("%s: the report could not be written: %s: %s", key, type(error).__name__, error)
            waiting.num_failures += 1
            result, again_seconds = "failed", _retry_seconds(waiting.num_failures)
        if result != "early":
            self.observe(result)
        with self._changed:
            is_replaced = waiting.received is not received
            if is_replaced and (again_seconds is None or waiting.received.job_report.is_last):
                again_seconds = 0.0
            if again_seconds is None:
                del self._waiting[key]
            else:
                waiting.due = self.clock() + again_seconds

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
                self.api_server.apply_status(
                    RLHF_JOBS, self._status(resource, received), field_manager=FIELD_MANAGER
                )
            except NotFound:
                return "gone", None
            except Conflict:
                continue
            self._note(received)
            return "written", None
        return "conflict", _FIRST_RETRY_SECONDS

    def _seconds_to_wait(self, resource: KubeObject, report: JobReport) -> float:
        if report.is_last or written_number(resource).attempt != report.attempt:
            return 0.0
        seconds = seconds_since_written(resource, self.now())
        return 0.0 if seconds is None else max(0.0, REPORT_SECONDS - seconds)

    def _status(self, resource: KubeObject, received: ReceivedReport) -> KubeObject:
        names = ("name", "namespace", "uid", "resourceVersion")
        return {
            "metadata": {name: resource["metadata"][name] for name in names},
            "status": report_fields(received.job_report, received.received_at, self.now()),
        }

    def _note(self, received: ReceivedReport) -> None:
        with self._changed:
            self._written.pop(received.uid, None)
            self._written[received.uid] = number_of(received.job_report)
            while len(self._written) > _MAX_WRITTEN:
                del self._written[next(iter(self._written))]


def _is_old(resource: KubeObject, report: JobReport) -> bool:
    is_of_old_attempt = report.attempt < current_attempt(resource)
    return is_of_old_attempt or number_of(report) <= written_number(resource)


def _retry_seconds(num_failures: int) -> float:
    return float(min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(num_failures - 1, 10)))
