"""Posts reports of a run to the operator, over TLS, without ever blocking the run.

Posting has a thread of its own and no queue: the thread builds a report when it is about to post one.
While the operator cannot be reached, it backs off. `close` posts a last report within a grace period.

Invariants (asserted by `tests/rollout/report/test_report_sender.py`):
- `changed` never blocks, whatever the operator does; `close` takes no longer than its grace period;
- at most one post per `REPORT_SECONDS`, the last one not counted;
- nothing is posted to a server that the given CA certificates do not verify, and no redirect is followed;
- the token is read from its file for each post, as the file is renewed, and is never logged.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from taper_api import JobError, Problem
from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.status.job_report import REPORT_SECONDS, JobReport

POST_SECONDS = 5.0
# Time for a second post where the first one hangs.
LAST_GRACE_SECONDS = 12.0
LAST_RETRY_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 120.0
_TOKEN = re.compile(r"[-A-Za-z0-9._~+/=]+")
_TAKEN = 202
# The operator has a newer report: there is nothing to repeat.
_STALE = 409

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTarget:
    """Where to post to. ca, token: files; attempt: number of the attempt that the token belongs to"""

    url: str
    ca: Path
    token: Path
    attempt: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """From the `TAPER_REPORT_` variables; None without them. Raises `JobError` if one is bad."""
        url = environment.get("TAPER_REPORT_URL", "")
        if not url:
            return None
        names = ("TAPER_REPORT_CA", "TAPER_REPORT_TOKEN", "TAPER_ATTEMPT")
        problems = [_problem(name, "is missing") for name in names if not environment.get(name)]
        number = environment.get("TAPER_ATTEMPT", "")
        if number and not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MAX_ATTEMPTS):
            problems.append(_problem("TAPER_ATTEMPT", f"{number!r} is not a number from 1 to {MAX_ATTEMPTS}"))
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            problems.append(_problem("TAPER_REPORT_URL", f"{url!r} is not an https URL"))
        if problems:
            raise JobError(problems)
        ca, token = (Path(environment[name]) for name in names[:2])
        return cls(url=url, ca=ca, token=token, attempt=int(number))


def _problem(name: str, message: str) -> Problem:
    remedy = "the operator sets these variables; unset all TAPER_REPORT_ variables elsewhere"
    return Problem(path=name, message=message, remedy=remedy)


class ReportSender:
    """See the module's docstring. Call `start`, then `changed` any number of times, then `close`.

    make: builds a report of the run's present state, from whether it is the last one
    """

    def __init__(
        self,
        target: ReportTarget,
        make: Callable[[bool], JobReport],
        *,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        self._target = target
        self._make = make
        self._report_seconds = report_seconds
        self._has_changed = threading.Event()
        self._has_changed.set()
        self._is_closing = threading.Event()
        self._closes_at = 0.0
        self._num_failures = 0
        # A daemon: a post that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="post reports", daemon=True)

    def start(self) -> None:
        """Post a first report, and from now on one after each change."""
        self._thread.start()

    def changed(self) -> None:
        """Note that the state has changed. Never blocks."""
        self._has_changed.set()

    def close(self, grace_seconds: float = LAST_GRACE_SECONDS) -> None:
        """Post the last report, if possible within `grace_seconds`."""
        self._closes_at = time.monotonic() + grace_seconds
        self._is_closing.set()
        self._has_changed.set()
        self._thread.join(grace_seconds)
        if self._thread.is_alive():
            _logger.error("the last report could not be sent to the operator within %g s", grace_seconds)

    def _run(self) -> None:
        while self._wait_for_change():
            sent = self._post(is_last=False)
            self._is_closing.wait(self._report_seconds if sent else self._wait_after_failure())
        while not self._post(is_last=True):
            if time.monotonic() + LAST_RETRY_SECONDS >= self._closes_at:
                return
            time.sleep(LAST_RETRY_SECONDS)

    def _wait_for_change(self) -> bool:
        """Wait for a change. Returns False once the sender is closing and only the last report is due."""
        self._has_changed.wait()
        # Cleared before the look at `_is_closing`, which `close` sets first: its wake-up is never lost.
        self._has_changed.clear()
        return not self._is_closing.is_set()

    def _wait_after_failure(self) -> float:
        return float(min(LONGEST_WAIT_SECONDS, self._report_seconds * 2 ** min(self._num_failures - 1, 10)))

    def _post(self, *, is_last: bool) -> bool:
        """Post one report. Returns whether it was accepted, or is not needed any more."""
        try:
            status, answer = post(self._target, self._make(is_last))
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._failed(f"{type(error).__name__}: {error}")
            return False
        if status not in (_TAKEN, _STALE):
            self._failed(f"HTTP {status} {answer}")
            return False
        if self._num_failures:
            _logger.warning("reports reach the operator again")
        self._num_failures = 0
        return True

    def _failed(self, problem: str) -> None:
        self._num_failures += 1
        if self._num_failures == 1:
            _logger.error(
                "reports do not reach the operator: %s; the run continues and keeps trying", problem
            )


def post(target: ReportTarget, report: JobReport) -> tuple[int, str]:
    """Post a report. Returns the HTTP status and the beginning of the answer.

    Raises OSError (no connection, no file), `ssl.SSLError`, HTTPException, ValueError (an unusable token).
    """
    parts = urlsplit(target.url)
    context = ssl.create_default_context(cafile=str(target.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    token = target.token.read_text(encoding="ascii").strip()
    if not _TOKEN.fullmatch(token):
        # Checked here, because the error of `http.client` would quote it.
        raise ValueError(f"{target.token} does not contain a token")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=POST_SECONDS, context=context
    )
    try:
        connection.request("POST", parts.path or "/", report.as_json(), headers)
        response = connection.getresponse()
        return response.status, response.read(200).decode("ascii", "replace").strip()
    finally:
        connection.close()
