"""The rules that a simulated stage can run under: static layouts, the baselines, the predictor.

Each arm is made anew for each stage. All see only what a coordinator sees.
"""

from __future__ import annotations

from collections.abc import Iterable

from taper_policy.decision import Choice, Prices
from taper_policy.forecast import LiveRequest, forecast
from taper_policy.lengths import LengthHistory
from taper_policy.predictor import ReplicaSnapshot, Rules, decide
from taper_policy.simulator import Rule, SimulatedReplica, SimulatedRequest

FEW = 8
SHARE = 0.85


def static(_: SimulatedReplica) -> None:
    """The layout that the stage began with, to its end."""
    return


def threshold(requests: int, degree: int) -> Rule:
    """Widen to `degree` once no more than `requests` are live."""

    def rule(replica: SimulatedReplica) -> tuple[int, str] | None:
        if replica.degree >= degree or len(replica.live) > requests:
            return None
        return degree, f"{len(replica.live)} live, threshold {requests}"

    return rule


def widen_at_once(degree: int) -> Rule:
    """Widen to `degree` as soon as a group has nothing to do."""

    def rule(replica: SimulatedReplica) -> tuple[int, str] | None:
        if replica.degree >= degree or min(replica.running()) > 0:
            return None
        return degree, "a group is idle"

    return rule


class Predictor:
    """Asks `decide` at the start and then as the batch shrinks; keeps its choices for the ledger.

    Between two questions the live count must fall: one by one when few live, else by a share,
    but never past the count at which the last choice planned to widen.
    """

    def __init__(
        self, prices: Prices, history: LengthHistory, rules: Rules, *, step: int, max_tokens: int
    ) -> None:
        self._prices, self._history, self._rules = prices, history, rules
        self._step, self._max_tokens = step, max_tokens
        self._due: int | None = None
        self._told: set[str] = set()
        self.choices: list[Choice] = []
        history.start_stage(step)

    def __call__(self, replica: SimulatedReplica) -> tuple[int, str] | None:
        """The rule."""
        num_live = len(replica.live)
        if self._due is not None and num_live > self._due:
            return None
        self.learn(replica.finished)
        live = tuple(
            LiveRequest(
                rid=one.request.rid,
                prompt=one.request.prompt,
                group=one.group,
                prompt_tokens=one.request.prompt_tokens,
                decoded_tokens=one.decoded_tokens,
            )
            for one in replica.live
        )
        snapshot = ReplicaSnapshot(
            at_seconds=replica.at_seconds, footprint=replica.footprint, degree=replica.degree, live=live
        )
        expected = forecast(live, self._history, max_tokens=self._max_tokens)
        choice = decide(snapshot, self._prices, expected, self._rules, replica.at_seconds)
        self.choices.append(choice)
        self._due = _next_question(choice, replica.degree, num_live)
        return choice.degree, choice.reason

    def learn(self, finished: Iterable[SimulatedRequest]) -> None:
        """Tell the history of responses that have ended. Call it with all of them after the stage."""
        for request in finished:
            if request.rid not in self._told:
                self._told.add(request.rid)
                self._history.add_finished(request.prompt, request.response_tokens, step=self._step)


def _next_question(choice: Choice, degree: int, num_live: int) -> int:
    if num_live <= FEW:
        return num_live - 1
    staying = next((option for option in choice.options if option.degree == degree), None)
    planned = staying.next_at_requests if staying and staying.next_at_requests is not None else 0
    return max(FEW, int(SHARE * num_live), min(planned, num_live - 1))
