"""Receives the reports that jobs post: authenticates the sender, and passes new reports to the writer.

Every replica of the operator does so, leading or not, since a Service may choose any of them. An unknown job
gets the same answer as a wrong token.

Invariants (asserted by `tests/operator/reports/test_receiver.py`):
- no report is accepted without a token for that very job and attempt;
- no report is accepted of an attempt that is not the newest, or that is not newer than the last report;
- a job that posts too often is refused, and no other job with it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from taper_api.status.job_report import report_of
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.timestamp import utc_now
from taper_operator.manifests.names import identity_of
from taper_operator.manifests.report_path import job_of_path
from taper_operator.reports.refusal import ACCEPTED, Refused
from taper_operator.reports.status import current_attempt, number_of, written_number
from taper_operator.reports.token_bucket import TokenBucket
from taper_operator.reports.tokens import ReportTokens
from taper_operator.reports.writer import ReceivedReport, ReportWriter

_SCHEME = "Bearer "
# A job posts every 15 s, and once more at its end.
_SECONDS_PER_REPORT = 5.0
_BURST = 4
_MAX_JOBS = 4_096


@dataclass(eq=False)
class ReportReceiver:
    """See the module's docstring. Its methods may be called from any thread.

    jobs: the cache of RLHFJobs
    is_ready: whether it is filled
    clock: monotonic seconds
    now: the time of day, in UTC
    """

    jobs: ObjectCache
    tokens: ReportTokens
    writer: ReportWriter
    _: KW_ONLY
    is_ready: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now

    def __post_init__(self) -> None:
        self._bucket = functools.lru_cache(maxsize=_MAX_JOBS)(self._new_bucket)

    def receive(self, path: str, authorization: str, body: bytes) -> str:
        """Handle a posted report; returns `accepted`. Raises Refused."""
        key = job_of_path(path)
        if key is None:
            raise Refused("not_found")
        if not authorization.startswith(_SCHEME):
            raise Refused("unauthenticated")
        if not self.is_ready():
            raise Refused("not_ready")
        try:
            report = report_of(body)
        except ValueError:
            raise Refused("malformed") from None
        resource = self.jobs.get(key)
        if resource is None:
            raise Refused("unauthenticated")
        identity = identity_of(resource)
        self.tokens.check(authorization.removeprefix(_SCHEME), identity, report.attempt)
        if not self._bucket(identity.uid).take():
            raise Refused("too_often")
        if report.attempt != current_attempt(resource):
            raise Refused("stale_attempt")
        received = ReceivedReport(uid=identity.uid, job_report=report, received_at=self.now())
        if number_of(report) <= written_number(resource) or not self.writer.offer(key, received):
            raise Refused("stale_sequence")
        return ACCEPTED

    def _new_bucket(self, uid: str) -> TokenBucket:
        return TokenBucket(per_second=1 / _SECONDS_PER_REPORT, burst=_BURST, clock=self.clock)
