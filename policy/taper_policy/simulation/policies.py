"""The rules that a simulated stage can run under: static layouts, the baselines, the predictor.

Each arm is made anew for each stage. All see only what a coordinator sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decide import ReplicaSnapshot
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import DecisionEntry, FinishedResponse
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.simulation.simulator import Policy, SimulatedReplica, SimulatedRequest


def static(_: SimulatedReplica) -> None:
    """The layout that the stage began with, to its end."""
    return


def threshold(requests: int, degree: int) -> Policy:
    """Widen to `degree` once no more than `requests` are live."""

    def rule(replica: SimulatedReplica) -> tuple[int, str] | None:
        if replica.degree >= degree or len(replica.live) > requests:
            return None
        return degree, f"{len(replica.live)} live, threshold {requests}"

    return rule


def widen_at_once(degree: int) -> Policy:
    """Widen to `degree` as soon as a group has nothing to do."""

    def rule(replica: SimulatedReplica) -> tuple[int, str] | None:
        if replica.degree >= degree or min(replica.running) > 0:
            return None
        return degree, "a group is idle"

    return rule


def expected_like(requests: Sequence[SimulatedRequest]) -> ExpectedStage:
    """A stage of as many requests as these, of as many prompts."""
    return ExpectedStage(
        num_requests=len(requests),
        num_prompts=len({request.prompt for request in requests}),
        prompt_tokens=sum(request.prompt_tokens for request in requests) // len(requests),
    )


class PredictorPolicy:
    """One stage of a replica that asks its job's `advisor`; keeps the questions for the ledger."""

    def __init__(self, advisor: Advisor, *, step: int) -> None:
        self._advisor = advisor
        self._told: set[str] = set()
        self.decisions: list[DecisionEntry] = []
        advisor.start_stage(step)

    def __call__(self, replica: SimulatedReplica) -> tuple[int, str] | None:
        """The rule."""
        if not self._advisor.is_due(len(replica.live), replica.longest_tokens):
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
        question = self._advisor.decide(snapshot, replica.at_seconds)
        self.decisions.append(question)
        return question.choice.degree, question.choice.reason

    def learn(self, finished: Iterable[SimulatedRequest]) -> None:
        """Tell the advisor of responses that have ended. Call it with all of them after the stage."""
        new = [request for request in finished if request.rid not in self._told]
        self._told.update(request.rid for request in new)
        self._advisor.add_finished(
            FinishedResponse(request.prompt, request.response_tokens) for request in new
        )
