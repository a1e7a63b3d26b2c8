"""From the validated settings of a policy to the policy itself.

`taper_api` validates them, for an RLHFJob and for VeRL's `rollout.custom.policy` alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from taper_api.job.rollout_spec import Policy
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.switch_rules import SwitchRule, rule_from_settings

CUSTOM_PATH = "actor_rollout_ref.rollout.custom.policy"


def policy_of(policy: Policy, degrees: Sequence[int]) -> SwitchRule | PredictorSettings:
    """The switch rule, or the predictor's settings, for a replica with `degrees` (base first)."""
    sections = policy.model_dump(exclude_none=True, by_alias=False)
    return rule_from_settings(sections, degrees, path=CUSTOM_PATH)
