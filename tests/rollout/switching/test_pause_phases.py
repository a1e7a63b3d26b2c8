"""A pause and its phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.switching.pause_phases import DURATIONS, MARKS, PHASES, pause_phases

seconds = st.floats(0, 10)


def test_marks_become_durations_and_what_is_left_is_the_rest() -> None:
    parts = {"offer": 0.01, "quiesce": 0.06, "agree": 0.07, "drain": 0.001, "requests": 0.002, "kv": 0.03}
    phases = pause_phases(parts, 0.15)
    assert phases == pytest.approx(
        {
            "offer": 0.01,
            "quiesce": 0.05,
            "agree": 0.01,
            "drain": 0.001,
            "requests": 0.002,
            "kv": 0.03,
            "rest": 0.047,
        }
    )
    assert tuple(phases) == PHASES


def test_a_pause_without_parts_is_all_rest() -> None:
    assert {name: value for name, value in pause_phases({}, 0.1).items() if value} == {"rest": 0.1}
    assert pause_phases({"transfer": 0.02}, 0.1)["rest"] == pytest.approx(0.1)


@given(steps=st.lists(seconds, min_size=3, max_size=3), durations=st.lists(seconds, min_size=3, max_size=3))
def test_phases_add_up_to_the_pause(steps: list[float], durations: list[float]) -> None:
    marks = [sum(steps[: count + 1]) for count in range(3)]
    parts = dict(zip(MARKS, marks, strict=True)) | dict(zip(DURATIONS, durations, strict=True))
    pause_seconds = sum(steps) + sum(durations) + 1.0
    assert sum(pause_phases(parts, pause_seconds).values()) == pytest.approx(pause_seconds)


@given(parts=st.dictionaries(st.sampled_from([*PHASES, "other"]), st.floats(-10, 10)), pause_seconds=seconds)
def test_no_phase_is_negative_or_missing(parts: dict[str, float], pause_seconds: float) -> None:
    phases = pause_phases(parts, pause_seconds)
    assert tuple(phases) == PHASES
    assert min(phases.values()) >= 0
