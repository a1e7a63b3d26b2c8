"""The reports of an attempt, built from the run's events."""

import math
from dataclasses import replace

import pytest

from taper_api.status.job_report import MAX_SNAPSHOT_BYTES, report_of
from taper_rollout.events import Resumed
from taper_rollout.report.job_report import JobReportBuilder, layout_name

from .stage_builder import make_progress, make_stage, make_step

PLACES = ((0, 1), (1, 1), (2, 2))
RESUMED = Resumed(step=2, directory="/c/global_step_2")
FROM_START = Resumed(step=0, directory=None)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def builder_with(events=(), *, steps=5, clock=None):
    builder = JobReportBuilder(attempt=3, steps=steps, clock=clock or Clock())
    builder.record(events)
    return builder


def test_before_anything_has_happened():
    report = builder_with().report()
    assert (report.attempt, report.sequence, report.is_last) == (3, 1, False)
    assert (report.training.step, report.training.steps, report.remaining_seconds) == (0, 5, None)
    assert report.rollout.layouts == ()


def test_sequence_numbers_ascend_and_the_last_report_is_marked():
    builder = builder_with()
    reports = [builder.report(), builder.report(), builder.report(is_last=True)]
    assert [(each.sequence, each.is_last) for each in reports] == [(1, False), (2, False), (3, True)]


def test_the_remaining_time_is_that_of_the_remaining_steps_at_the_pace_of_the_newest():
    clock = Clock()
    builder = builder_with(clock=clock)
    builder.record([make_step(1, **{"timing_s/step": 30.0})])
    assert (builder.report().training.seconds_per_step, builder.report().remaining_seconds) == (
        30.0,
        120.0,
    )
    clock.now = 10.0
    assert builder.report().remaining_seconds == 110.0
    builder.record([make_step(2)])
    assert builder.report().training.seconds_per_step == 20.0
    assert builder.report().remaining_seconds == 60.0
    clock.now = 1000.0
    assert builder.report().remaining_seconds == 0.0
    for step in (3, 4, 5):
        builder.record([make_step(step)])
    assert builder.report().remaining_seconds == 0.0


def test_the_last_checkpoint_is_the_saved_one_or_the_one_resumed_from():
    builder = builder_with([RESUMED])
    assert (builder.report().training.step, builder.report().training.last_checkpoint_step) == (2, 2)
    builder.record([make_step(3)])
    assert builder.report().training.last_checkpoint_step == 2
    builder.record([make_step(4, **{"timing_s/save_checkpoint": 0.5})])
    assert builder.report().training.last_checkpoint_step == 4
    restarted = builder_with([FROM_START]).report()
    assert (restarted.training.step, restarted.training.last_checkpoint_step) == (0, None)


@pytest.mark.parametrize(
    ("events", "first_step"),
    [
        ([], None),
        ([RESUMED], 2),
        ([RESUMED, make_step(3)], 2),
        ([FROM_START], 0),
        ([make_step(1)], 0),
    ],
)
def test_the_first_step_is_reported_once_it_is_known(events, first_step):
    assert builder_with(events).report().training.first_step == first_step


def test_switch_figures_are_summed_over_all_replicas():
    stages = [make_stage(replica=replica, num_ranks=4, gain_seconds=1.5) for replica in range(3)]
    stages += [make_stage(outcome="aborted"), make_stage(outcome="refused"), make_stage(gain_seconds=None)]
    stages[:2] = [replace(stages[0], regret=0.1), replace(stages[1], regret=0.3)]
    progress = [make_progress(replica=replica, degree=degree, num_ranks=4) for replica, degree in PLACES]
    rollout = builder_with([*progress, *stages]).report().rollout
    assert [(each.layout, each.replicas) for each in rollout.layouts] == [
        ("(0)(1)(2)(3)", 2),
        ("(0,1)(2,3)", 1),
    ]
    assert (rollout.switches, rollout.aborted_switches) == (4, 2)
    assert rollout.saved_gpu_seconds == pytest.approx(3 * 1.5 * 4)
    assert (rollout.pause_p50_seconds, rollout.pause_p99_seconds) == pytest.approx((0.08, 0.08))
    assert rollout.regret == pytest.approx(0.2)


def test_values_that_are_not_finite_are_left_out():
    step = make_step(1, reward=math.nan, **{"timing_s/step": math.inf})
    training = builder_with([step]).report().training
    assert (training.reward, training.seconds_per_step) == (None, None)


def test_a_long_run_of_many_replicas_stays_small():
    builder = builder_with([make_progress(replica=i, num_ranks=8, degree=2 ** (i % 4)) for i in range(4096)])
    for step in range(1, 300):
        builder.record([make_stage(step=step), make_step(step)] * 3)
    content = builder.report().as_json()
    assert len(content) < MAX_SNAPSHOT_BYTES / 4
    assert len(report_of(content).rollout.layouts) == 4


def test_a_layout_that_is_too_long_to_name_is_cut():
    assert layout_name(8, 2) == "(0,1)(2,3)(4,5)(6,7)"
    assert len(layout_name(64, 1)) == 64
