"""How long a follower took to take over the Lease, from the API server's audit log.

The clock starts when the last write of the previous leader was answered: from then on everybody can see when
the Lease expires. While the API server has a request of the follower's, the clock stands: how fast it answers
depends on the machine, how often and when the follower asks depends on the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from taper_operator.kube.resource import LEASES

from ..control_plane.audit_log import WRITES, Request


def takeover_seconds(requests: Sequence[Request], leader: str, follower: str) -> float | None:
    """Seconds from the leader's last write of the Lease to the follower's first; None while there is none.

    requests: of all replicas, in any order
    leader, follower: their credentials
    """
    ours = sorted((each for each in requests if each.resource == LEASES.plural), key=lambda each: each.at)
    written = [each for each in ours if each.verb in WRITES and each.status in (200, 201)]
    taken = next((each for each in written if each.credential == follower), None)
    left = [each.answered_at for each in written if each.credential == leader]
    if taken is None or not left:
        return None
    asked = [each for each in ours if each.credential == follower]
    return taken.at - left[-1] - sum(_overlap_seconds(each, left[-1], taken.at) for each in asked)


def _overlap_seconds(request: Request, start: float, end: float) -> float:
    """How long the API server had a request between two times."""
    return max(0.0, min(request.answered_at, end) - max(request.at, start))
