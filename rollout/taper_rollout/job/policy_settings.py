"""From the validated settings of a policy to the policy itself.

One model validates types and ranges of `spec.rollout.policy` and of VeRL's `rollout.custom.policy`. An
RLHFJob is also checked for sections that do not belong to its policy; for a direct launch of VeRL this is
done here.
"""

from __future__ import annotations

from collections.abc import Sequence

from taper_api.job.rollout_spec import Policy
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.switch_rules import SwitchRule, rule_from_settings

CUSTOM_PATH = "actor_rollout_ref.rollout.custom.policy"


def policy_of(
    policy: Policy, degrees: Sequence[int], *, path: str = CUSTOM_PATH
) -> SwitchRule | PredictorSettings:
    """The switch rule, or the predictor's settings, for a replica with `degrees` (base first).

    Raises `ValueError` that begins with the path of the wrong field, below `path`.
    """
    sections = policy.model_dump(exclude={"name"}, exclude_none=True, by_alias=False)
    for section in sections:
        if section != policy.name:
            raise ValueError(f"{path}.{section}: the policy is {policy.name}; remove it, or change the name")
    if policy.name in type(policy).model_fields and policy.name not in {"predictor", *sections}:
        raise ValueError(f"{path}.{policy.name}: missing; the policy {policy.name} needs its settings")
    return rule_from_settings({"name": policy.name, **sections}, degrees, path=path)
