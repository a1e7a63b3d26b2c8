"""What a policy knows of a replica at one moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from taper_policy.forecast.forecast import LiveRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A replica at one moment of a generation stage.

    at_seconds: on a monotonic clock
    footprint, degree: ranks of the replica; degree of its present layout
    running: requests in the running batch of each group, in group order
    longest_decoded_tokens: decoded tokens of the longest live response; 0 without a live request
    waiting: requests that no group has admitted yet
    arrivals_settled: no further request of this stage is expected
    switches_done_in_stage: switches attempted in this stage, failed ones included
    boundary_seconds: time from the moment the first group could stop until the last group has finished its
        decode step, if the switch were ordered now; None if unknown
    live: the running requests, one by one; empty unless a policy needs them (`with_live`)
    """

    at_seconds: float
    footprint: int
    degree: int
    running: tuple[int, ...]
    longest_decoded_tokens: int = 0
    waiting: int = 0
    arrivals_settled: bool = True
    switches_done_in_stage: int = 0
    boundary_seconds: float | None = None
    live: tuple[LiveRequest, ...] = ()

    @property
    def num_running(self) -> int:
        """Requests in the running batches of all groups."""
        return sum(self.running)

    @property
    def is_settled(self) -> bool:
        """Whether requests are running, none waits and none is still to arrive: the batch only shrinks."""
        return self.arrivals_settled and not self.waiting and self.num_running > 0

    def with_live(self, live: tuple[LiveRequest, ...]) -> Snapshot:
        """The same moment with its running requests listed; counts and lengths follow from them."""
        of_group = Counter(request.group for request in live)
        num_groups = max(self.footprint // self.degree, *(group + 1 for group in of_group), 1)
        return replace(
            self,
            running=tuple(of_group[group] for group in range(num_groups)),
            longest_decoded_tokens=max((request.decoded_tokens for request in live), default=0),
            live=live,
        )
