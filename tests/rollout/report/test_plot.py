import pytest

from taper_rollout.report.plot import bands, plot_stages

from .stage_builder import make_stage


def test_bands_cover_the_stage_and_meet_where_the_layout_changes():
    spans = bands(make_stage((10, 200), switch_at_tokens=60))
    assert [degree for _, _, degree in spans] == [1, 2]
    assert [edge for start, end, _ in spans for edge in (start, end)] == pytest.approx(
        [0, 3, 3, 10], abs=1e-6
    )


def test_a_stage_without_samples_has_no_bands():
    assert bands(make_stage(batch=())) == []


@pytest.mark.parametrize("num_stages", [1, 2, 9])
def test_plots_any_number_of_stages(tmp_path, num_stages):
    stages = [make_stage(step=step, num_ranks=4, gain_seconds=None) for step in range(num_stages - 1)]
    stages.append(make_stage(step=num_stages, num_ranks=4, gain_seconds=None, batch=()))
    plot_stages(stages, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
