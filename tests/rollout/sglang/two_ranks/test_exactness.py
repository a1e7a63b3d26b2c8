"""A request never knows that a switch happened: equal tokens and log-probs, in one memory."""

from __future__ import annotations

import pytest

from ..live_engine import (
    BY_LENGTH,
    MIXED_PROMPTS,
    PROMPTS,
    LiveEngine,
    StageResult,
    SwitchAt,
    differences,
    memory_faults,
    mix_faults,
    seeded,
)

TIMELINES = {
    "widen": [SwitchAt(tokens=30, degree=2)],
    "widen and narrow": [SwitchAt(tokens=20, degree=2), SwitchAt(tokens=60, degree=1)],
    "four switches": [
        SwitchAt(tokens=10, degree=2),
        SwitchAt(tokens=35, degree=1),
        SwitchAt(tokens=60, degree=2),
        SwitchAt(tokens=90, degree=1),
    ],
}


@pytest.mark.parametrize("kv", ["migrate", "recompute"])
@pytest.mark.parametrize("timeline", TIMELINES)
def test_greedy_stage_is_equal(engine: LiveEngine, unswitched: StageResult, timeline: str, kv: str) -> None:
    switches = [SwitchAt(tokens=s.tokens, degree=s.degree, kv=kv) for s in TIMELINES[timeline]]
    switched = engine.stage(switches)
    assert differences(unswitched, switched) == []
    assert memory_faults(engine.command("inspect")) == []
    assert all(figures.live_requests == len(PROMPTS) for figures in switched.switches)
    for figures in switched.switches:
        assert 0 < figures.pause_seconds < 10
        if kv == "migrate":
            assert figures.prefilled_tokens <= figures.live_requests
        else:
            assert figures.moved_bytes == 0
            assert figures.prefilled_tokens >= figures.live_tokens


@pytest.mark.parametrize("timeline", TIMELINES)
def test_a_stage_is_equal_where_some_migrate_and_others_are_recomputed(
    engine: LiveEngine, timeline: str
) -> None:
    sampling = seeded(max_new_tokens=120)
    unswitched = engine.stage(sampling=sampling, prompts=MIXED_PROMPTS)
    switches = [SwitchAt(tokens=s.tokens, degree=s.degree, kv=BY_LENGTH) for s in TIMELINES[timeline]]
    switched = engine.stage(switches, sampling=sampling, prompts=MIXED_PROMPTS)
    assert differences(unswitched, switched) == []
    assert memory_faults(engine.command("inspect")) == []
    for figures in switched.switches:
        assert mix_faults(figures) == []


def test_recomputed_siblings_find_the_prompt_of_one_that_migrated(engine: LiveEngine) -> None:
    siblings, sampling = [MIXED_PROMPTS[-1]] * 4, seeded(count=4, max_new_tokens=120)
    unswitched = engine.stage(sampling=sampling, prompts=siblings)
    assert len({tuple(tokens) for tokens in unswitched.tokens}) == len(siblings)
    switched = engine.stage(
        [SwitchAt(tokens=30, degree=2, kv=BY_LENGTH)], sampling=sampling, prompts=siblings
    )
    assert differences(unswitched, switched) == []
    [figures] = switched.switches
    assert (figures.migrated_requests, figures.recomputed_requests) == (1, 3)
    assert figures.recomputed_tokens < 110 * 3
    assert figures.prefilled_tokens <= figures.recomputed_tokens + len(siblings)
