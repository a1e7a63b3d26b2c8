"""A replica's profile is corrected by what its stages took."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from taper_policy.decision.correction import Correction
from taper_rollout.replica import step_learner
from taper_rollout.replica.step_learner import MOST_STEPS, StepLearner
from taper_rollout.shared_memory.rank_record import Step

from ..measured_profile import measured_profile

ONE = np.array([1.0])


def learner() -> StepLearner:
    made = StepLearner(footprint=2, replica=0)
    made.use(measured_profile())
    return made


def add(to: StepLearner, count: int, *, seconds: float, degree: int = 2) -> None:
    for _ in range(count):
        to.add(Step(degree=degree, batch=1, context_tokens=100, seconds=seconds))


def test_a_stage_that_took_longer_makes_the_next_one_expected_to() -> None:
    """A step of one request takes 5 ms at TP2 by the profile."""
    made = learner()
    add(made, 5000, seconds=0.006)
    assert made.correction == Correction()
    made.end_stage()
    assert made.correction.of(2, ONE) == pytest.approx(1.2, rel=0.01)
    made.end_stage()  # a stage without a step
    assert made.correction.of(2, ONE) == pytest.approx(1.2, rel=0.01)


def test_another_profile_is_not_corrected_by_what_was_learned_of_the_first() -> None:
    made = learner()
    add(made, 100, seconds=0.006)
    made.use(measured_profile())
    made.end_stage()
    assert made.correction == Correction()


def test_without_a_profile_nothing_is_kept() -> None:
    made = StepLearner(footprint=2, replica=0)
    add(made, 100, seconds=0.006)
    made.end_stage()
    assert made.correction == Correction()


def test_a_long_stage_is_thinned_out_and_not_forgotten() -> None:
    """All of it counts alike: the first half took 5 ms a step, the other 10 ms."""
    made = learner()
    for seconds in (0.005, 0.010):
        add(made, 8 * MOST_STEPS, seconds=seconds)
    assert len(made._steps) <= MOST_STEPS
    made.end_stage()
    assert made.correction.of(2, ONE) == pytest.approx(1.5, rel=0.02)


def test_a_fault_corrects_nothing_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = learner()
    add(made, 10, seconds=0.006, degree=4)  # a degree that has no price
    with caplog.at_level(logging.ERROR):
        made.end_stage()
    assert made.correction == Correction()
    assert "nothing is learned" in caplog.text
    monkeypatch.setattr(step_learner, "learned", lambda *_: Correction({2: {0: 1.1}}))
    add(made, 1, seconds=0.006)
    made.end_stage()
    assert made.correction == Correction({2: {0: 1.1}})
