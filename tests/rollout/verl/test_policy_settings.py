"""Settings of a policy as someone writes them who launches VeRL directly."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf

from taper_api.job.rollout_spec import Policy
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.switch_rules import Schedule, SchedulePoint, Threshold, WidenAtOnce
from taper_rollout.job.policy_settings import policy_of
from taper_rollout.verl.custom_block import read_block

PATH = "actor_rollout_ref.rollout.custom.policy"
NAMES = "use 'predictor', 'widen-at-once', 'threshold' or 'schedule'"


DEGREES = (1, 2, 4)


def policy(settings: Any) -> object:
    """As a replica reads it from VeRL's configuration."""
    config = SimpleNamespace(
        custom=OmegaConf.create({"degrees": list(DEGREES), "policy": settings}),
        tensor_model_parallel_size=4,
        n=1,
        response_length=64,
        temperature=1.0,
        top_p=1.0,
        top_k=-1,
    )
    return policy_of(read_block(config).policy, DEGREES)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "predictor"}, PredictorSettings()),
        ({}, PredictorSettings()),
        (
            {
                "name": "predictor",
                "predictor": {"margin_seconds": 1, "confidence": 0.9},
                "threshold": None,
            },
            PredictorSettings(margin_seconds=1.0, confidence=0.9),
        ),
        ({"name": "widen-at-once"}, WidenAtOnce(degree=4)),
        ({"name": "threshold", "threshold": {"requests": 8}}, Threshold(requests=8, degree=4)),
        (
            {"name": "schedule", "schedule": [{"tokens": 10, "degree": 2}, {"tokens": 20, "degree": 1}]},
            Schedule(points=(SchedulePoint(tokens=10, degree=2), SchedulePoint(tokens=20, degree=1))),
        ),
    ],
    ids=str,
)
def test_settings_become_a_policy(settings: dict[str, Any], expected: object) -> None:
    assert policy(settings) == expected


def test_every_name_that_users_can_give_is_a_policy() -> None:
    sections = {
        "threshold": {"threshold": {"requests": 8}},
        "schedule": {"schedule": [{"tokens": 10, "degree": 2}]},
    }
    names = get_args(Policy.model_fields["name"].annotation)
    policies = [policy({"name": name, **sections.get(name, {})}) for name in names]
    assert {type(made) for made in policies} == {PredictorSettings, WidenAtOnce, Threshold, Schedule}


def test_an_unset_field_of_the_predictor_has_the_policys_own_default() -> None:
    """The defaults are written twice, in the API and in the arithmetic: they must agree."""
    assert policy({"name": "predictor", "predictor": {}}) == PredictorSettings()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "oracle"}, f"p.name: 'oracle' is not allowed; {NAMES}"),
        ({"name": ["threshold"]}, f"p.name: ['threshold'] is not allowed; {NAMES}"),
        ({"name": "threshold"}, "p.threshold: is missing, but the policy is threshold; add threshold"),
        (
            {"name": "schedule", "schedule": None},
            "p.schedule: is missing, but the policy is schedule; add schedule",
        ),
        ({"name": "threshold", "treshold": {}}, "p.treshold: unknown field; did you mean threshold?"),
        (
            {"name": "threshold", "threshold": {"requests": 3}, "schedule": [{"tokens": 7, "degree": 2}]},
            "p.schedule: is set, but the policy is threshold; remove it, or set "
            "rollout.custom.policy.name to schedule",
        ),
        (
            {"name": "widen-at-once", "widen-at-once": {}},
            "p.widen-at-once: unknown field; known here: name, predictor, threshold, schedule",
        ),
        (
            {"name": "predictor", "predictor": {"luck": 1}},
            "p.predictor.luck: unknown field; known here: marginSeconds, marginShare, confidence",
        ),
        (
            {"name": "predictor", "predictor": {"margin_share": "x"}},
            "p.predictor.margin_share: 'x' is not valid; it must be a valid number",
        ),
        (
            {"name": "predictor", "predictor": {"margin_share": -1}},
            "p.predictor.margin_share: -1 is not valid; it must be greater than or equal to 0",
        ),
        (
            {"name": "predictor", "predictor": {"confidence": 2}},
            "p.predictor.confidence: 2 is not valid; it must be less than or equal to 1",
        ),
        (
            {"name": "predictor", "predictor": {"margin_seconds": float("nan")}},
            "p.predictor.margin_seconds: nan is not valid; it must be a finite number",
        ),
        ({"name": "threshold", "threshold": 3}, "p.threshold: 3 is not a mapping; write name: value"),
        (
            {"name": "threshold", "threshold": {"requests": 0}},
            "p.threshold.requests: 0 is not valid; it must be greater than or equal to 1",
        ),
        (
            {"name": "threshold", "threshold": {"requests": True}},
            "p.threshold.requests: True is not valid; it must be a valid integer",
        ),
        (
            {"name": "threshold", "threshold": {"requests": 1.5}},
            "p.threshold.requests: 1.5 is not valid; it must be a valid integer",
        ),
        (
            {"name": "threshold", "threshold": {"requests": 1, "k": 1}},
            "p.threshold.k: unknown field; known here: requests",
        ),
        ({"name": "schedule", "schedule": []}, "p.schedule: is empty; list at least one"),
        (
            {"name": "schedule", "schedule": {"tokens": 1}},
            "p.schedule: {'tokens': 1} is not a list; write [{'tokens': 1}]",
        ),
        ({"name": "schedule", "schedule": "later"}, "p.schedule: 'later' is not a list; write ['later']"),
        ({"name": "schedule", "schedule": [7]}, "p.schedule[0]: 7 is not a mapping; write name: value"),
        (
            {"name": "schedule", "schedule": [{"tokens": 7}]},
            "p.schedule[0].degree: is missing; add it; it has no default",
        ),
        (
            {"name": "schedule", "schedule": [{"tokens": 7, "degree": 8}]},
            "p.schedule[0].degree: 8 is not among the degrees [1, 2, 4]; use one of "
            "rollout.custom.degrees, or add it there",
        ),
        (
            {"name": "schedule", "schedule": [{"tokens": 7, "degree": 1}]},
            "p.schedule[0].degree: the replica has degree 1 already; name a degree to switch to; a stage "
            "starts in the first of rollout.custom.degrees",
        ),
        (
            {"name": "schedule", "schedule": [{"tokens": 0, "degree": 2}]},
            "p.schedule[0].tokens: 0 is not valid; it must be greater than or equal to 1",
        ),
        (
            {"name": "schedule", "schedule": [{"tokens": 7, "degree": 2}, {"tokens": 7, "degree": 1}]},
            "p.schedule[1].tokens: 7 comes after 7; list the points by ascending tokens",
        ),
        (
            {"name": "schedule", "schedule": [{"tokens": 7, "degree": 2}, {"tokens": 9, "degree": 2}]},
            "p.schedule[1].degree: the replica has degree 2 already; name a degree to switch to; a stage "
            "starts in the first of rollout.custom.degrees",
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_with_their_path(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(PATH + problem.removeprefix('p'))}$"):
        policy(settings)
