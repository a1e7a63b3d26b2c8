"""The layout in which a stage begins, chosen before its first request arrives.

Between two stages a replica is idle, so a change of layout pauses no request. The coming stage is
expected to be like the last one: about as many requests, with lengths as the job has shown so far, or the
prior's in its first stage. Each layout is priced to the end of the stage, later widenings included. The
fastest is taken if it beats the best static layout by the margin: planning a later widening for a tiny
gain loses most if the stage turns out short.

Invariants (asserted by `tests/policy/decision/test_first_layout.py`):
- by its own model never slower than any static layout;
- equal arguments give equal choices;
- it does not raise for what cannot be priced: the stage then begins in the narrowest layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taper_policy.decision.decide import SCENARIO_SEED, DecisionSettings, scenario_count
from taper_policy.decision.pricing import Choice, Prices, choose_first
from taper_policy.decision.scenarios import Scenarios
from taper_policy.forecast.forecast import LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStage:
    """What one replica is expected to serve in a stage.

    num_requests, num_prompts: requests, and the prompts whose samples they are
    prompt_tokens: mean tokens of a prompt

    Raises `ValueError` for impossible numbers.
    """

    num_requests: int
    num_prompts: int
    prompt_tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_prompts <= self.num_requests:
            raise ValueError(f"num_prompts: {self.num_prompts} is not within [1, {self.num_requests}]")
        if self.prompt_tokens < 0:
            raise ValueError(f"prompt_tokens: {self.prompt_tokens} is negative")

    def requests(self) -> list[LiveRequest]:
        """The expected requests, of unknown prompts; the samples of a prompt follow each other."""
        samples = -(-self.num_requests // self.num_prompts)
        return [
            LiveRequest(
                rid=f"expected-{index:06}",
                prompt=f"expected-{index // samples:06}",
                group=0,
                prompt_tokens=self.prompt_tokens,
                decoded_tokens=0,
            )
            for index in range(self.num_requests)
        ]


def first_layout(
    expected: ExpectedStage,
    profile: Prices,
    history: LengthHistory,
    settings: DecisionSettings,
    *,
    max_tokens: int,
) -> Choice:
    """The layout to begin in, and why. `max_tokens` is the longest response."""
    requests = expected.requests()
    try:
        remaining = forecast(requests, history, max_tokens=max_tokens).scenarios(
            scenario_count(len(requests)), SCENARIO_SEED
        )
        num_groups = settings.degrees[-1] // settings.degrees[0]
        # The prefill makes the first token of each response, no step does.
        scenarios = Scenarios.of(
            np.maximum(1, remaining - 1),
            [request.prompt_tokens + 1 for request in requests],
            [index % num_groups for index in range(len(requests))],
            num_groups=num_groups,
        )
        return choose_first(scenarios, profile, settings.predictor, degrees=settings.degrees)
    except (ValueError, ArithmeticError) as error:
        return Choice(degree=settings.degrees[0], reason=f"cannot be priced: {error}")
