"""All rules of an RLHFJob: for the parser, for an API server, for the configuration reference."""

from __future__ import annotations

from typing import Any

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.environment_rules import ENVIRONMENT
from taper_api.rules.field_rules import FIELD_RULES
from taper_api.rules.immutability import IMMUTABILITY_RULES
from taper_api.rules.node_pool_rules import NODE_POOL_RULES
from taper_api.rules.rollout_rules import ROLLOUT_RULES, rollout_contradictions
from taper_api.rules.rule import CelRule, Rule
from taper_api.rules.training_rules import TRAINING_RULES
from taper_api.rules.verl_rules import VERL
from taper_api.rules.volume_rules import VOLUME_RULES

_JOB_RULES: tuple[Rule[RLHFJobSpec], ...] = (
    *TRAINING_RULES,
    VERL,
    *NODE_POOL_RULES,
    ENVIRONMENT,
    *VOLUME_RULES,
)
RULES: tuple[Rule[Any], ...] = (*ROLLOUT_RULES, *_JOB_RULES)


def contradictions(spec: RLHFJobSpec) -> list[Problem]:
    """Every contradiction between the fields of a spec, so that an author sees them all at once."""
    of_job = [problem for rule in _JOB_RULES for problem in rule.check(spec)]
    return [*rollout_contradictions(spec.rollout), *of_job]


def cel_rules() -> list[CelRule]:
    """All that an API server checks of an RLHFJob beyond the types of its fields."""
    between = [cel for rule in RULES for cel in rule.cel]
    return [*FIELD_RULES, *between, *IMMUTABILITY_RULES]
