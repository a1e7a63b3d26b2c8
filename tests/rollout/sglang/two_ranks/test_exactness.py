"""A request never knows that a switch happened: equal tokens and log-probs, in one memory."""

from __future__ import annotations

import pytest

from ..live_engine import PROMPTS, LiveEngine, StageResult, SwitchAt, differences, memory_faults

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
    assert all(figures["live_requests"] == len(PROMPTS) for figures in switched.switches)
    for figures in switched.switches:
        assert 0 < figures["pause_seconds"] < 10
        if kv == "migrate":
            assert figures["prefilled_tokens"] <= figures["live_requests"]
        else:
            assert figures["moved_bytes"] == 0
            assert figures["prefilled_tokens"] >= figures["live_tokens"]
