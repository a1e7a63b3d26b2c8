"""The measure of a takeover counts what the operator decides, and not how fast the API server answers."""

from __future__ import annotations

from typing import Any

import pytest

from ..control_plane.audit_log import Request
from .lease_takeover import takeover_seconds


def request(at: float, credential: str, verb: str = "get", **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "at": at,
        "answered_at": at + 0.1,
        "verb": verb,
        "group": "coordination.k8s.io",
        "resource": "leases",
        "namespace": "operator",
        "name": "taper",
        "status": 200,
        "credential": credential,
    }
    return Request(**(fields | changes))


RENEWAL = request(0.0, "old", "update")


def test_it_counts_from_the_last_renewal_to_the_first_write_of_the_follower() -> None:
    requests = [RENEWAL, request(12.1, "new", "update"), request(14.1, "new", "update")]
    assert takeover_seconds(requests, "old", "new") == pytest.approx(12.0)


def test_a_follower_that_asks_too_rarely_is_measured_in_full() -> None:
    requests = [RENEWAL, request(5.0, "new", answered_at=5.0), request(25.1, "new", "update")]
    assert takeover_seconds(requests, "old", "new") == pytest.approx(25.0)


def test_the_time_for_which_the_api_server_has_a_request_is_not_counted() -> None:
    slow = request(10.0, "new", answered_at=13.0)
    before = request(-1.0, "new", answered_at=1.1)
    requests = [before, RENEWAL, slow, request(15.1, "new", "update")]
    assert takeover_seconds(requests, "old", "new") == pytest.approx(15.0 - 3.0 - 1.0)


@pytest.mark.parametrize(
    "takeover",
    [
        request(12.1, "third", "update"),
        request(12.1, "new", "update", status=409),
        request(12.1, "new", "update", resource="rayjobs"),
        request(12.1, "new", "get"),
    ],
)
def test_other_writes_are_no_takeover(takeover: Request) -> None:
    assert takeover_seconds([RENEWAL, takeover], "old", "new") is None
