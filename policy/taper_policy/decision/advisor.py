"""The predictor of one replica over a job: what it has learned, and when its next decision is due.

An advisor lives as long as its job. It records which responses have ended, decides whenever the batch has
shrunk enough since its last decision, and returns each decision with everything needed to repeat it
(`ledger`). Live replicas and simulated ones use the same advisor.

Between two decisions the live count must fall by a share (by one if few are live), but never past the count
at which the last decision planned to widen. Or the longest response must grow by a share: that it is still
running also says how long the rest may be. Deciding more often gained nothing that `benchmarks/regret.py`
could detect.

Invariants (asserted by `tests/policy/decision/test_advisor.py`):
- the same events give the same decisions;
- a response enters the history once, in the stage in which it ended;
- an error in forecast or profile is a decision to stay, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from taper_policy.decision.correction import CorrectedPrices, Correction
from taper_policy.decision.decide import DecisionSettings, decide
from taper_policy.decision.first_layout import ExpectedStage, first_layout
from taper_policy.decision.ledger import DecisionEntry, FinishedResponse, StageEndEntry
from taper_policy.decision.pricing import Choice, Prices
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import Forecast, forecast
from taper_policy.forecast.lengths import LengthHistory

FEW = 4
SHARE = 0.5
GROWTH = 1.75
LEAST_GROWTH = 1 / 32


class Advisor:
    """See the module's docstring. `max_tokens` is the longest response. Not thread-safe."""

    def __init__(self, prices: Prices, rules: DecisionSettings, *, max_tokens: int) -> None:
        self._profile, self._rules, self._max_tokens = prices, rules, max_tokens
        self._prices: Prices = prices
        self._history = LengthHistory()
        self._step = 0
        self._number = 0
        self._due: int | None = None
        self._due_tokens = 0
        self._unrecorded: list[FinishedResponse] = []

    def start_stage(self, step: int) -> None:
        """The generation stage of global step `step` begins; its first decision is due at once."""
        self._history.start_stage()
        self._step, self._number, self._due = step, 0, None

    def correct(self, correction: Correction) -> None:
        """Price steps with this correction from now on."""
        self._prices = CorrectedPrices(self._profile, correction)

    def first_layout(self, expected: ExpectedStage) -> Choice:
        """The layout to begin the stage in, before its first request."""
        return first_layout(expected, self._prices, self._history, self._rules, max_tokens=self._max_tokens)

    def add_finished(self, finished: Iterable[FinishedResponse]) -> None:
        """Responses of this stage that have ended. `ValueError` for one without a token."""
        for response in finished:
            self._history.add_finished(response.prompt, response.tokens)
            self._unrecorded.append(response)

    def is_due(self, num_live: int, longest_tokens: int) -> bool:
        """Whether the batch has shrunk, or its longest response grown, enough for the next decision."""
        return self._due is None or num_live <= self._due or longest_tokens >= self._due_tokens

    def decide(self, snapshot: Snapshot, now: float) -> DecisionEntry:
        """The decision for this moment, with everything that it followed from."""
        choice = self._choice(snapshot, now)
        self._due = _next_decision(choice, snapshot.degree, len(snapshot.live))
        longest = max((request.decoded_tokens for request in snapshot.live), default=0)
        self._due_tokens = max(longest + math.ceil(LEAST_GROWTH * self._max_tokens), int(GROWTH * longest))
        self._number += 1
        return DecisionEntry(
            step=self._step,
            number=self._number,
            age_seconds=now - snapshot.at_seconds,
            finished=self._take_unrecorded(),
            snapshot=snapshot,
            choice=choice,
        )

    def end_stage(self) -> StageEndEntry:
        """What ended after the last decision; the next stage's decisions follow from it as well."""
        return StageEndEntry(step=self._step, finished=self._take_unrecorded())

    def _take_unrecorded(self) -> tuple[FinishedResponse, ...]:
        taken, self._unrecorded = tuple(self._unrecorded), []
        return taken

    def _choice(self, snapshot: Snapshot, now: float) -> Choice:
        try:
            expected: Forecast = forecast(snapshot.live, self._history, max_tokens=self._max_tokens)
        except (ValueError, ArithmeticError) as error:
            return Choice(degree=snapshot.degree, reason=f"the forecast failed: {error}")
        return decide(snapshot, self._prices, expected, self._rules, now)


def _next_decision(choice: Choice, degree: int, num_live: int) -> int:
    """The live count at which the next decision is due."""
    if num_live <= FEW:
        return num_live - 1
    staying = choice.option(degree)
    planned = staying.next_at_requests if staying and staying.next_at_requests is not None else 0
    return max(FEW, int(SHARE * num_live), min(planned, num_live - 1))
