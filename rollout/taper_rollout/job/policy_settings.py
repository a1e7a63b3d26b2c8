"""From the validated settings of a policy to the policy itself.

`taper_api` validates them, for an RLHFJob and for VeRL's `rollout.custom.policy` alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from taper_api.job.rollout_spec import Policy, PredictorSpec
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.switch_rules import Schedule, SchedulePoint, SwitchRule, Threshold, WidenAtOnce


def policy_of(policy: Policy, degrees: Sequence[int]) -> SwitchRule | PredictorSettings:
    """The switch rule, or the predictor's settings, for a replica with `degrees`, which ascend."""
    match policy.name:
        case "predictor":
            return PredictorSettings(**(policy.predictor or PredictorSpec()).model_dump(by_alias=False))
        case "widen-at-once":
            return WidenAtOnce(degree=degrees[-1])
        case "threshold":
            assert policy.threshold is not None, policy
            return Threshold(requests=policy.threshold.requests, degree=degrees[-1])
        case "schedule":
            assert policy.schedule, policy
            points = (SchedulePoint(**point.model_dump(by_alias=False)) for point in policy.schedule)
            return Schedule(points=tuple(points))
