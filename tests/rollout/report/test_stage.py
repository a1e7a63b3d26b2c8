import pytest

from taper_rollout.report.stage import committed, generation_seconds, length_figures, percentile, total

from .stage_builder import START, parsed_stage


def test_generation_of_replicas_that_overlap_counts_once():
    stages = [
        parsed_stage((100,), replica=0),  # 0 to 5 s
        parsed_stage((160,), replica=1, started_at=START + 1),  # 1 to 9 s
        parsed_stage((20,), replica=2, started_at=START + 2),  # within
        parsed_stage((20,), step=2, started_at=START + 20),  # 20 to 21 s
    ]
    assert generation_seconds(stages) == pytest.approx(10.0)
    assert generation_seconds(reversed(stages)) == pytest.approx(10.0)
    assert generation_seconds([]) == 0


def test_only_committed_switches_count():
    stages = [
        parsed_stage(step=2, outcome="refused"),
        parsed_stage(step=1),
        parsed_stage(switch_at_tokens=None),
    ]
    assert [(switch.step, switch.replica) for switch in committed(stages)] == [(1, 0)]


def test_total_leaves_out_what_was_not_measured():
    assert total([1.0, None, 2.0]) == 3.0
    assert total([None]) is None


def test_length_figures():
    figures = length_figures([parsed_stage((10, 20)), parsed_stage((40, 200))])
    assert figures["responses"] == 4
    assert figures["response_tokens"] == 270
    assert figures["response_tokens_median"] == 30
    assert figures["response_tokens_longest"] == 200
    assert length_figures([]) == {"responses": 0}


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 2), (0.75, 2.5), (1, 3)])
def test_percentile_interpolates(share, value):
    assert percentile([1, 2, 3], share) == value
