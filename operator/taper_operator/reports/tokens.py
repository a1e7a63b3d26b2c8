"""Whether who posts a snapshot is the attempt that it is of: asked of the API server by its token.

The kubelet gives the head's pod a token whose audience names the job's uid and the attempt, and which ends
with the pod. That it was made for the job's own ServiceAccount is looked at too.

Invariants (asserted by `tests/operator/reports/test_tokens.py`):
- a token of another job, another attempt, another ServiceAccount or another audience is refused;
- no token is kept or logged; a good one is believed for `_BELIEVED_SECONDS` before it is asked about again;
- the API server is asked no more often than `_MAX_REVIEWS_PER_SECOND`, however many guess.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
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
_BELIEVED_SECONDS = 60.0
_MAX_BELIEVED = 4_096
_MAX_REVIEWS_PER_SECOND = 50.0
_REVIEW_SECONDS = 5.0


class ReportTokens:
    """See the module's docstring. Its methods may be called from any thread. clock: monotonic seconds"""

    def __init__(self, api_server: ApiServer, *, clock: Callable[[], float]) -> None:
        self._api_server = api_server
        self._clock = clock
        self._lock = threading.Lock()
        self._believed: OrderedDict[bytes, float] = OrderedDict()
        self._reviews = TokenBucket(per_second=_MAX_REVIEWS_PER_SECOND, burst=100, clock=clock)

    def check(self, token: str, identity: JobIdentity, attempt: int) -> None:
        """Raises Refused."""
        if not _TOKEN.fullmatch(token):
            raise Refused("unauthenticated")
        audience = token_audience(identity, attempt)
        digest = hashlib.sha256(f"{audience}\n{token}".encode()).digest()
        if self._is_believed(digest):
            return
        if not self._reviews.take():
            raise Refused("busy")
        review = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "spec": {"token": token, "audiences": [audience]},
        }
        try:
            answer = self._api_server.review(TOKEN_REVIEWS, review, read_seconds=_REVIEW_SECONDS)
        except ApiError as error:
            # Of the type alone: an answer may quote what it was asked about.
            log.warning("a token could not be reviewed: %s (HTTP %d)", type(error).__name__, error.status)
            raise Refused("unavailable") from None
        if not _is_reporter(answer, identity, audience):
            raise Refused("unauthenticated")
        self._believe(digest)

    def _is_believed(self, digest: bytes) -> bool:
        with self._lock:
            return self._believed.get(digest, float("-inf")) > self._clock()

    def _believe(self, digest: bytes) -> None:
        with self._lock:
            self._believed[digest] = self._clock() + _BELIEVED_SECONDS
            self._believed.move_to_end(digest)
            while len(self._believed) > _MAX_BELIEVED:
                self._believed.popitem(last=False)


def _is_reporter(answer: object, identity: JobIdentity, audience: str) -> bool:
    audiences = field_at(answer, "status", "audiences")
    account = f"system:serviceaccount:{identity.namespace}:{identity.shared_name}"
    return (
        field_at(answer, "status", "authenticated") is True
        # An API server that does not know of audiences would leave them out.
        and isinstance(audiences, list)
        and audience in audiences
        and text_at(answer, "status", "user", "username") == account
    )
