"""What a rule sees of a replica, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A replica at one moment of a generation stage.

    at_seconds: on a clock that never goes back
    degree: of the present layout
    running: requests in the running batch of each group, in group order
    waiting: requests not yet admitted by any group
    finished: requests of this stage that have ended
    arrivals_settled: no request of this stage is still to come
    longest_decoded_tokens: tokens decoded so far by the live request that has most (0: none lives)
    total_tokens: tokens decoded in this stage, finished requests included
    switches_done_in_stage: switches attempted in this stage, whatever became of them
    boundary_seconds: how long the first group to stop would wait for the last; None where unknown
    """

    at_seconds: float
    degree: int
    running: tuple[int, ...]
    waiting: int
    finished: int
    arrivals_settled: bool
    longest_decoded_tokens: int
    total_tokens: int
    switches_done_in_stage: int
    boundary_seconds: float | None = None

    @property
    def num_running(self) -> int:
        """Requests in the running batches of all groups."""
        return sum(self.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Switch to the uniform layout of `degree`; `reason` is for the ledger and the user.

    What the predictor expects of it, None of other rules: `question` is its number in the stage,
    `gain_seconds` what is saved over staying to the end of the stage, `pause_seconds` what it costs.
    """

    degree: int
    reason: str
    question: int | None = None
    gain_seconds: float | None = None
    pause_seconds: float | None = None
