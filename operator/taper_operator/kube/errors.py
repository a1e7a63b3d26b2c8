"""How a request to the API server can fail, as few types as a caller can tell apart.

`ApiError` itself is an answer that no caller handles in a way of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taper_operator.kube.json_decoder import decoded

_MAX_MESSAGE_CHARACTERS = 1_000


class ApiError(Exception):
    """A request that did not succeed.

    status: HTTP status, 0 without an answer
    reason: the API server's word for it (`AlreadyExists`), empty where it gave none
    causes: of `Status.details`, each with reason, message and field where known
    retry_after_seconds: how long to leave the API server alone, None if nobody said
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        causes: tuple[Mapping[str, str], ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.causes = causes
        self.retry_after_seconds = retry_after_seconds


class BadRequest(ApiError):
    """400, such as a field that the kind does not have."""


class Unauthorized(ApiError):
    """401: the token is not, or no longer, valid."""


class Forbidden(ApiError):
    """403: RBAC, a quota, an admission policy, or a namespace that is being deleted (see `causes`)."""


class NotFound(ApiError):
    """404: the object, or the namespace it should be created in, is not there."""


class ResourceNotServed(NotFound):
    """404 for the kind itself: its CRD is not installed, or not in this version."""


class Conflict(ApiError):
    """409: a stale resourceVersion, a failed precondition, or a field of another manager."""


class AlreadyExists(ApiError):
    """409 to a create: there is an object of that name."""


class Gone(ApiError):
    """410: the resourceVersion or `continue` token is too old; list again."""


class Invalid(ApiError):
    """422: a schema, CEL rule or validation refused the object (see `causes`)."""


class TooManyRequests(ApiError):
    """429: fair queuing, or an eviction that a disruption budget forbids."""


class ServerError(ApiError):
    """5xx: the API server or a webhook failed; a write may have happened."""


class Unreachable(ApiError):
    """No answer, or half of one. A write may have happened."""


class NotLeader(ApiError):
    """A write that was not sent, since this process may not lead any more."""


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
    """The error of an HTTP answer. A proxy's page, which is no `Status`, is reported in its own words."""
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
        reason=reason,
        causes=tuple(details.get("causes") or ()),
        retry_after_seconds=_seconds(headers.get("Retry-After"))
        or _seconds(details.get("retryAfterSeconds")),
    )


def _type(status: int, reason: str, details: Mapping[str, Any]) -> type[ApiError]:
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists
    # A missing object is named in the details; an unknown path gets a plain "404 page not found".
    if status == 404 and not details.get("name"):
        return ResourceNotServed
    if status >= 500:
        return ServerError
    return _TYPES.get(status, ApiError)


def _seconds(text: object) -> float | None:
    """Retry-After may also be a date, which says nothing to a monotonic clock."""
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
