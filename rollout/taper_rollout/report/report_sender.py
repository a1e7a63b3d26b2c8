"""Posts snapshots of a run to whoever runs it, over TLS, and never keeps the run waiting.

It has a thread of its own, and nothing waits in line: the thread asks for a snapshot when it is about to
post one. Where nobody listens it tries more and more seldom. At the end there is a short grace for the last.

Invariants (asserted by `tests/rollout/report/test_snapshot_sender.py`):
- `changed` takes no time, whatever the other side does; `close` takes no longer than its grace;
- no more than one post in `REPORT_SECONDS`, the last not counted;
- nothing is posted to a server that the given certificates do not vouch for, and no redirect is followed;
- the token, which is renewed in its file, is read for each post, and is never logged.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

from taper_api import JobError, Problem
from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.status.job_report import REPORT_SECONDS, JobReport

POST_SECONDS = 5.0
# Room for a second post where the first one hangs.
LAST_GRACE_SECONDS = 12.0
LAST_RETRY_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 120.0
_TOKEN = re.compile(r"[-A-Za-z0-9._~+/=]+")
_TAKEN = 202
# Somebody else's snapshot is newer: nothing to repeat.
_STALE = 409

_logger = logging.getLogger(__name__)


class MakeReport(Protocol):
    """Makes a snapshot of how the run stands."""

    def __call__(self, *, is_last: bool = False) -> JobReport: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTarget:
    """Where to post to. ca, token: files; attempt: number of the attempt that the token is of"""

    url: str
    ca: Path
    token: Path
    attempt: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """What the environment names; None where it names nothing. Raises `JobError` for half of it."""
        url = environment.get("TAPER_REPORT_URL", "")
        if not url:
            return None
        names = ("TAPER_REPORT_CA", "TAPER_REPORT_TOKEN", "TAPER_ATTEMPT")
        problems = [_problem(name, "is missing") for name in names if not environment.get(name)]
        number = environment.get("TAPER_ATTEMPT", "")
        if number and not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MAX_ATTEMPTS):
            problems.append(_problem("TAPER_ATTEMPT", f"{number!r} is no number of an attempt"))
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            problems.append(_problem("TAPER_REPORT_URL", f"{url!r} is no address of https"))
        if problems:
            raise JobError(problems)
        ca, token = (Path(environment[name]) for name in names[:2])
        return cls(url=url, ca=ca, token=token, attempt=int(number))


def _problem(name: str, message: str) -> Problem:
    remedy = "leave all TAPER_REPORT_ variables to the operator, or set none"
    return Problem(path=name, message=message, remedy=remedy)


class ReportSender:
    """See the module's docstring. `start`, then `changed` as often as one likes, then `close`."""

    def __init__(
        self, target: ReportTarget, make: MakeReport, *, report_seconds: float = REPORT_SECONDS
    ) -> None:
        self._target = target
        self._make = make
        self._report_seconds = report_seconds
        self._condition = threading.Condition()
        self._has_changed = True
        self._closes_at: float | None = None
        self._num_failures = 0
        # A daemon: a post that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="post snapshots", daemon=True)

    def start(self) -> None:
        """Post how the run stands, and from now on what changes."""
        self._thread.start()

    def changed(self) -> None:
        """There is news. Never waits."""
        if self._condition.acquire(blocking=False):
            # Else the thread is looking just now, or another call is telling it.
            self._has_changed = True
            self._condition.notify()
            self._condition.release()

    def close(self, grace_seconds: float = LAST_GRACE_SECONDS) -> None:
        """Post the last snapshot, if that can be done in so many seconds."""
        with self._condition:
            self._closes_at = time.monotonic() + grace_seconds
            self._condition.notify()
        self._thread.join(grace_seconds)
        if self._thread.is_alive():
            _logger.error("the last progress was not reported within %g s", grace_seconds)

    def _run(self) -> None:
        while self._wait_for_news():
            sent = self._post(is_last=False)
            self._pause(self._report_seconds if sent else self._wait_after_failure())
        self._post_last()

    def _wait_for_news(self) -> bool:
        """Whether there is news to post; False once there is only the last to come."""
        with self._condition:
            while self._closes_at is None and not self._has_changed:
                # Not without end: `changed` gives up where it would have to wait.
                self._condition.wait(self._report_seconds)
            self._has_changed = False
            return self._closes_at is None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._condition:
            while self._closes_at is None and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)

    def _wait_after_failure(self) -> float:
        return float(min(LONGEST_WAIT_SECONDS, self._report_seconds * 2 ** min(self._num_failures - 1, 10)))

    def _post_last(self) -> None:
        assert self._closes_at is not None
        while not self._post(is_last=True):
            if time.monotonic() + LAST_RETRY_SECONDS >= self._closes_at:
                return
            time.sleep(LAST_RETRY_SECONDS)

    def _post(self, *, is_last: bool) -> bool:
        """Whether the snapshot was taken, or need not be."""
        try:
            status, told = post(self._target, self._make(is_last=is_last))
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._failed(f"{type(error).__name__}: {error}")
            return False
        if status not in (_TAKEN, _STALE):
            self._failed(f"HTTP {status} {told}")
            return False
        if self._num_failures:
            _logger.warning("progress is reported again")
        self._num_failures = 0
        return True

    def _failed(self, problem: str) -> None:
        self._num_failures += 1
        if self._num_failures == 1:
            _logger.error("progress is not reported: %s; the run goes on", problem)


def post(target: ReportTarget, snapshot: JobReport) -> tuple[int, str]:
    """Post a snapshot; HTTP status and the first words of the answer.

    Raises OSError (no connection, no file), `ssl.SSLError`, HTTPException, ValueError (an unusable token).
    """
    parts = urlsplit(target.url)
    context = ssl.create_default_context(cafile=str(target.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    token = target.token.read_text(encoding="ascii").strip()
    if not _TOKEN.fullmatch(token):
        # What refuses it later would quote it.
        raise ValueError(f"{target.token} holds no token")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=POST_SECONDS, context=context
    )
    try:
        connection.request("POST", parts.path or "/", snapshot.as_json(), headers)
        answer = connection.getresponse()
        told = answer.read(200).decode("ascii", "replace").strip()
        return answer.status, told
    finally:
        connection.close()
