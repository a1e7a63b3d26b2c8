"""The policies of simulated stages: static layouts, switch rules, the predictor.

They are the policies of live replicas, adapted to the simulator, and see only what a coordinator sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import DecisionEntry, FinishedResponse
from taper_policy.decision.snapshot import Snapshot
from taper_policy.decision.switch_rules import SwitchRule
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.simulation.simulator import Policy, SimulatedLiveRequest, SimulatedReplica, SimulatedRequest


def static(_: SimulatedReplica) -> None:
    """Keep the stage's first layout to its end."""
    return


def following(rule: SwitchRule) -> Policy:
    """The policy of a simulated stage that follows `rule`."""

    def policy(replica: SimulatedReplica) -> tuple[int, str] | None:
        decision = rule.decide(_snapshot(replica))
        return None if decision is None else (decision.degree, decision.reason)

    return policy


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

    def __call__(self, replica: SimulatedReplica) -> tuple[int, str] | None:
        """Decide when the advisor's next decision is due."""
        if not self._advisor.is_due(len(replica.live), replica.longest_tokens):
            return None
        self.learn(replica.finished)
        snapshot = _snapshot(replica).with_live(tuple(map(_live_request, replica.live)))
        entry = self._advisor.decide(snapshot, replica.at_seconds)
        self.decisions.append(entry)
        return entry.choice.degree, entry.choice.reason

    def learn(self, finished: Iterable[SimulatedRequest]) -> None:
        """Pass the responses that have ended to the advisor, each once. Call it with all after the stage."""
        new = [request for request in finished if request.rid not in self._learned]
        self._learned.update(request.rid for request in new)
        self._advisor.add_finished(
            FinishedResponse(request.prompt, request.response_tokens) for request in new
        )


def _snapshot(replica: SimulatedReplica) -> Snapshot:
    return Snapshot(
        at_seconds=replica.at_seconds,
        footprint=replica.footprint,
        degree=replica.degree,
        running=tuple(replica.running),
        longest_decoded_tokens=replica.longest_tokens,
        switches_done_in_stage=replica.num_switches,
    )


def _live_request(live: SimulatedLiveRequest) -> LiveRequest:
    return LiveRequest(
        rid=live.request.rid,
        prompt=live.request.prompt,
        group=live.group,
        prompt_tokens=live.request.prompt_tokens,
        decoded_tokens=live.decoded_tokens,
    )
