"""The requests of one user, from the API server's audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

WRITES = frozenset({"create", "update", "patch", "delete"})
_CREDENTIAL = "authentication.kubernetes.io/credential-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """at, answered_at: seconds since 1970 of its arrival and of its answer
    resource: with its subresource, as a role names it
    status: of HTTP
    credential: which of the user's tokens came with it
    """

    at: float
    answered_at: float
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int
    credential: str

    @property
    def right(self) -> tuple[str, str, str]:
        """Verb, group and resource, as a role grants them."""
        return self.verb, self.group, self.resource


def requests_of(log: Path, user: str) -> list[Request]:
    """The user's requests that were for a resource, in the order in which they ended."""
    return list(_requests(log, user))


def _requests(log: Path, user: str) -> Iterator[Request]:
    with log.open() as lines:
        for line in lines:
            # An incomplete line is still being written.
            if f'"{user}"' not in line or not line.endswith("\n"):
                continue
            reported = json.loads(line)
            about = reported.get("objectRef")
            if reported["user"]["username"] != user or about is None:
                continue
            subresource = about.get("subresource", "")
            yield Request(
                at=_seconds(reported["requestReceivedTimestamp"]),
                answered_at=_seconds(reported["stageTimestamp"]),
                verb=reported["verb"],
                group=about.get("apiGroup", ""),
                resource=about["resource"] + (f"/{subresource}" if subresource else ""),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                status=reported.get("responseStatus", {}).get("code", 0),
                credential=reported["user"].get("extra", {}).get(_CREDENTIAL, [""])[0],
            )


def _seconds(text: str) -> float:
    """Since 1970."""
    return datetime.fromisoformat(text).timestamp()
