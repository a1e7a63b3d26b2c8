"""Checks by a token review that a report comes from the attempt that it is about.

The kubelet gives the head's pod a token whose audience names the job's uid and the attempt, and which expires
with the pod. The token must also belong to the job's own ServiceAccount.

Invariants (asserted by `tests/operator/reports/test_tokens.py`):
- a token of another job, another attempt, another ServiceAccount or another audience is refused;
- no token is stored or logged; a valid one is trusted for `_TRUSTED_SECONDS` before its next review;
- at most `_MAX_REVIEWS_PER_SECOND` reviews are requested, however many tokens are guessed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import ApiError
from taper_operator.kube.json_field import field_at, text_at
from taper_operator.manifests.kinds import TOKEN_REVIEWS
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.pod_volumes import token_audience
from taper_operator.reports.refusal import Refused
from taper_operator.reports.token_bucket import TokenBucket

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[-A-Za-z0-9._~+/=]{1,8192}")
_TRUSTED_SECONDS = 60.0
_MAX_TRUSTED = 4_096
_MAX_REVIEWS_PER_SECOND = 50.0
_REVIEW_SECONDS = 5.0


class ReportTokens:
    """See the module's docstring. Its methods may be called from any thread. clock: monotonic seconds"""

    def __init__(self, api_server: ApiServer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api_server = api_server
        self._clock = clock
        self._lock = threading.Lock()
        self._trusted: OrderedDict[bytes, float] = OrderedDict()
        self._reviews = TokenBucket(per_second=_MAX_REVIEWS_PER_SECOND, burst=100, clock=clock)

    def check(self, token: str, identity: JobIdentity, attempt: int) -> None:
        """Raises Refused."""
        if not _TOKEN.fullmatch(token):
            raise Refused("unauthenticated")
        audience = token_audience(identity, attempt)
        digest = hashlib.sha256(f"{audience}\n{token}".encode()).digest()
        if self._is_trusted(digest):
            return
        if not self._reviews.take():
            raise Refused("busy")
        review = TOKEN_REVIEWS.manifest({}, spec={"token": token, "audiences": [audience]})
        try:
            answer = self._api_server.create(TOKEN_REVIEWS, review, read_seconds=_REVIEW_SECONDS)
        except ApiError as error:
            # Only the type: the message may quote the token.
            log.warning("a token could not be reviewed: %s (HTTP %d)", type(error).__name__, error.status)
            raise Refused("unavailable") from None
        if not _is_reporter(answer, identity, audience):
            raise Refused("unauthenticated")
        self._trust(digest)

    def _is_trusted(self, digest: bytes) -> bool:
        with self._lock:
            return self._trusted.get(digest, float("-inf")) > self._clock()

    def _trust(self, digest: bytes) -> None:
        with self._lock:
            self._trusted[digest] = self._clock() + _TRUSTED_SECONDS
            self._trusted.move_to_end(digest)
            while len(self._trusted) > _MAX_TRUSTED:
                self._trusted.popitem(last=False)


def _is_reporter(answer: object, identity: JobIdentity, audience: str) -> bool:
    audiences = field_at(answer, "status", "audiences")
    account = f"system:serviceaccount:{identity.namespace}:{identity.shared_name}"
    return (
        field_at(answer, "status", "authenticated") is True
        # An API server without support for audiences would omit them.
        and isinstance(audiences, list)
        and audience in audiences
        and text_at(answer, "status", "user", "username") == account
    )
