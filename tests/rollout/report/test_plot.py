import pytest

from taper_rollout.report.plot import bands, plot_stages
from taper_rollout.report.stage import StageReport

from .stage_builder import make_stage, parsed_stage


def test_bands_cover_the_stage_and_meet_where_the_layout_changes():
    spans = bands(parsed_stage((10, 200), switch_at_tokens=60))
    assert [degree for _, _, degree in spans] == [1, 2]
    assert [edge for start, end, _ in spans for edge in (start, end)] == pytest.approx(
        [0, 3, 3, 10], abs=1e-6
    )


def test_a_stage_without_samples_has_no_bands():
    assert bands(StageReport.from_json({**make_stage(), "batch": []})) == []


@pytest.mark.parametrize("num_stages", [1, 2, 9])
def test_plots_any_number_of_stages(tmp_path, num_stages):
    stages = [make_stage(step=step, num_ranks=4, gain_seconds=None) for step in range(num_stages)]
    stages[-1]["batch"] = []
    plot_stages([StageReport.from_json(stage) for stage in stages], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
