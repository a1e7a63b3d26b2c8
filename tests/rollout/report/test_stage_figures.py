import pytest

from taper_rollout.report.stage_figures import StageFigures, total

from .stage_builder import START, make_stage


def test_generation_of_replicas_that_overlap_counts_once():
    stages = [
        make_stage((100,), replica=0),  # 0 to 5 s
        make_stage((160,), replica=1, started_at=START + 1),  # 1 to 9 s
        make_stage((20,), replica=2, started_at=START + 2),  # within
        make_stage((20,), step=2, started_at=START + 20),  # 20 to 21 s
    ]
    assert StageFigures(stages).generation_seconds() == pytest.approx(10.0)
    assert StageFigures(reversed(stages)).generation_seconds() == pytest.approx(10.0)
    assert StageFigures().generation_seconds() == 0


def test_only_committed_switches_count():
    stages = [
        make_stage(step=2, outcome="refused"),
        make_stage(step=1),
        make_stage(switch_at_tokens=None),
    ]
    assert [(switch.step, switch.replica) for switch in StageFigures(stages).committed()] == [(1, 0)]


def test_total_leaves_out_what_was_not_measured():
    assert total([1.0, None, 2.0]) == 3.0
    assert total([None]) is None


def test_length_figures():
    figures = StageFigures([make_stage((10, 20)), make_stage((40, 200))]).length_figures()
    assert figures["responses"] == 4
    assert figures["response_tokens"] == 270
    assert figures["response_tokens_median"] == 30
    assert figures["response_tokens_longest"] == 200
    assert StageFigures().length_figures() == {"responses": 0}
