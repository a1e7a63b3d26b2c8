"""The settings of a switch policy, checked: `actor_rollout_ref.rollout.custom.policy` of a VeRL run.

`taper run` writes them from a validated job. Someone who launches VeRL directly writes them as overrides, so
they are validated here by the model of `spec.rollout.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from taper_api.base.violations import problems_of
from taper_api.job.rollout_spec import Policy
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.switch_rules import SwitchRule, rule_from_settings

CUSTOM_PATH = "actor_rollout_ref.rollout.custom.policy"


def checked_policy(
    settings: Mapping[str, Any], degrees: Sequence[int], *, path: str = CUSTOM_PATH
) -> SwitchRule | PredictorSettings:
    """The policy that `settings` (snake case) describe, for a replica with `degrees`.

    Raises `ValueError` that begins with the path of the first wrong field, below `path`.
    """
    try:
        policy = Policy.model_validate(_plain(settings))
    except ValidationError as error:
        problem = problems_of(error, Policy)[0]
        raise ValueError(f"{path}.{problem}") from None
    sections = policy.model_dump(exclude={"name"}, exclude_none=True, by_alias=False)
    for section in sections:
        if section != policy.name:
            raise ValueError(f"{path}.{section}: the policy is {policy.name}; remove it, or change the name")
    if policy.name in ("threshold", "schedule") and policy.name not in sections:
        raise ValueError(f"{path}.{policy.name}: missing; the policy {policy.name} needs its settings")
    return rule_from_settings({"name": policy.name, **sections}, degrees, path=path)


def _plain(value: Any) -> Any:
    """Dictionaries and lists in place of the containers that a configuration library makes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
