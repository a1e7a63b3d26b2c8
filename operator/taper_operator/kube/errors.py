"""How a request to the API server can fail: one type for each failure that some caller handles differently.

`ApiError` itself stands for all other answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taper_operator.kube.json_decoder import decoded

_MAX_MESSAGE_CHARACTERS = 1_000


class ApiError(Exception):
    """A request that did not succeed.

    status: HTTP status, 0 without an answer
    retry_after_seconds: how long to wait before the next request, None if unknown
    """

    def __init__(self, message: str, *, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class BadRequest(ApiError):
    """400, such as a field that the kind does not have."""


class Unauthorized(ApiError):
    """401: the token is not, or no longer, valid."""


class Forbidden(ApiError):
    """403: RBAC, a quota, an admission policy, or a namespace that is being deleted."""


class NotFound(ApiError):
    """404: the object, or the namespace it should be created in, does not exist."""


class ResourceNotServed(NotFound):
    """404 for the kind itself: its CRD is not installed, or not in this version."""


class Conflict(ApiError):
    """409: a stale resourceVersion, a failed precondition, or a field of another manager."""


class AlreadyExists(ApiError):
    """409 to a create: an object of that name exists."""


class Gone(ApiError):
    """410: the resourceVersion or `continue` token is too old; list again."""


class Invalid(ApiError):
    """422: a schema, a CEL rule or an admission policy rejected the object."""


class TooManyRequests(ApiError):
    """429: fair queuing, or an eviction that a disruption budget forbids."""


class ServerError(ApiError):
    """5xx: the API server or a webhook failed; a write may have taken effect."""


class Unreachable(ApiError):
    """No answer, or an incomplete one. A write may have taken effect."""


class NotLeader(ApiError):
    """A write that was not sent: this process may no longer be the leader."""


_TYPES: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def error_from_response(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error of an HTTP answer. A page that is no `Status`, such as a proxy's, is its message."""
    try:
        content = decoded(body)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != "Status":
        content = {"message": body.decode(errors="replace").strip()}
    return error_from_status(status, content, headers)


def error_from_status(status: int, content: Mapping[str, Any], headers: Mapping[str, str]) -> ApiError:
    """The error of a `Status` object, as in the body of an answer or an ERROR event of a watch."""
    reason = content.get("reason") or ""
    details = content.get("details") or {}
    message = (content.get("message") or reason or "no message")[:_MAX_MESSAGE_CHARACTERS]
    return _type(status, reason, details)(
        message,
        status=status,
        retry_after_seconds=_seconds(headers.get("Retry-After"))
        or _seconds(details.get("retryAfterSeconds")),
    )


def _type(status: int, reason: str, details: Mapping[str, Any]) -> type[ApiError]:
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists
    # The details name a missing object; an unknown path gives a plain "404 page not found".
    if status == 404 and not details.get("name"):
        return ResourceNotServed
    if status >= 500:
        return ServerError
    return _TYPES.get(status, ApiError)


def _seconds(text: object) -> float | None:
    """Retry-After may also be a date, which a monotonic clock cannot use."""
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
