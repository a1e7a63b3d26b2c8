"""The policies of simulated stages: static layouts, switch rules, the predictor.

They are the policies of live replicas, adapted to the simulator, and see only what a coordinator sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decision import Decision
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import DecisionEntry, FinishedResponse
from taper_policy.decision.switch_rules import SwitchRule
from taper_policy.simulation.simulator import Policy, SimulatedReplica, SimulatedRequest


def static(_: SimulatedReplica) -> None:
    """Keep the stage's first layout to its end."""
    return


def following(rule: SwitchRule) -> Policy:
    """The policy of a simulated stage that follows `rule`."""
    return lambda replica: rule.decide(replica.snapshot)


def expected_like(requests: Sequence[SimulatedRequest]) -> ExpectedStage:
    """A stage of as many requests as these, of as many prompts."""
    return ExpectedStage(
        num_requests=len(requests),
        num_prompts=len({request.prompt for request in requests}),
        prompt_tokens=sum(request.prompt_tokens for request in requests) // len(requests),
    )


class PredictorPolicy:
    """The predictor in one stage: asks the job's `advisor` and keeps its decisions for the ledger."""

    def __init__(self, advisor: Advisor, *, step: int) -> None:
        self._advisor = advisor
        self._learned: set[str] = set()
        self.decisions: list[DecisionEntry] = []
        advisor.start_stage(step)

    def __call__(self, replica: SimulatedReplica) -> Decision | None:
        """Decide when the advisor's next decision is due."""
        snapshot = replica.snapshot
        if not self._advisor.is_due(snapshot.num_running, snapshot.longest_decoded_tokens):
            return None
        self.learn(replica.finished)
        entry = self._advisor.decide(snapshot.with_live(replica.live()), snapshot.at_seconds)
        self.decisions.append(entry)
        return Decision(degree=entry.choice.degree, reason=entry.choice.reason)

    def learn(self, finished: Iterable[SimulatedRequest]) -> None:
        """Pass the responses that have ended to the advisor, each once. Call it with all after the stage."""
        new = [request for request in finished if request.rid not in self._learned]
        self._learned.update(request.rid for request in new)
        self._advisor.add_finished(
            FinishedResponse(request.prompt, request.response_tokens) for request in new
        )
