import io
from dataclasses import replace

from rich.console import Console

from taper_rollout.events import (
    Calibration,
    EventsLost,
    Failure,
    LedgerEntry,
    MetricsServed,
    Resumed,
    SkippedCheckpoint,
    StepSeconds,
    Waiting,
)
from taper_rollout.report.progress import ProgressDisplay
from taper_rollout.report.stage_figures import StageFigures
from taper_rollout.report.summary import summarise
from taper_rollout.report.table import summary_table, switch_table

from .stage_builder import make_progress, make_stage, make_step

TIMES = "\N{MULTIPLICATION SIGN}"
PROGRESS = make_progress()


def shown(events, *, is_terminal=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=120)
    with ProgressDisplay(console, num_steps=5, num_responses=4) as display:
        for event in events:
            display.show([event])
    return text.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    text = shown([PROGRESS, make_stage(), make_step()])
    switch, step = text.splitlines()
    assert switch.strip() == (
        f"switch 2{TIMES}TP1 → 1{TIMES}TP2 with 1 request running: pause 80 ms, gain +1.50 s"
    )
    assert step == (
        "step 1/5  reward 0.250  generation 10.0 s  median 30, max 200 tokens  1 switch, gain +1.50 s"
    )


def test_a_steps_line_fits_in_100_columns():
    stages = [make_stage((900, 1300, 1950), step=12, replica=replica) for replica in range(12)]
    *_, step = shown([*stages, make_step(12)]).splitlines()
    assert "median 1300, max 1950 tokens  12 switches, gain +18.00 s" in step
    assert len(step) <= 100


def test_on_a_terminal_the_bars_show_the_running_requests_and_the_layout():
    assert f"3 running in 2{TIMES}TP1" in shown([PROGRESS], is_terminal=True)
    text = shown([PROGRESS, make_stage(), make_step()], is_terminal=True)
    assert "generated; training" in text
    assert "reward 0.250" in text


def test_the_metrics_line_names_the_node_if_the_run_has_several():
    url = "http://127.0.0.1:9400/metrics"
    text = shown([MetricsServed(url=url, node=None), MetricsServed(url=url, node="10.1.2.3")])
    assert text.splitlines() == [
        "metrics: http://127.0.0.1:9400/metrics",
        "metrics: http://127.0.0.1:9400/metrics on 10.1.2.3",
    ]


def test_waiting_for_resources_is_shown():
    assert shown([Waiting(text="waiting for GPUs")]) == "waiting for GPUs\n"


def test_lost_events_are_shown():
    text = shown([EventsLost(count=3)])
    assert text == "3 events were lost: some figures of this run are too low\n"


def test_events_that_no_report_shows_are_ignored():
    assert shown([LedgerEntry(replica=0, at=0.0, entry={}), Failure(message="no")]) == ""


def test_a_resumed_run_shows_its_checkpoint_and_those_that_it_skipped():
    resumed = Resumed(step=2, directory="/c/attempt-a-0001/global_step_2")
    damaged = SkippedCheckpoint(
        directory="/c/attempt-a-0001/global_step_4", reason="is damaged: data.pt is missing"
    )
    text = shown([resumed, replace(resumed, passed_over=(damaged,))])
    resuming = "resuming after step 2 from /c/attempt-a-0001/global_step_2"
    skipping = "skipping checkpoint /c/attempt-a-0001/global_step_4, which is damaged: data.pt is missing"
    assert text.splitlines() == [resuming, skipping, resuming]
    text = shown([Resumed(directory=None, step=0, passed_over=(damaged,))])
    assert text.splitlines() == [skipping, "no complete checkpoint: training starts from the beginning"]


def test_calibration_has_a_line_per_batch_size_that_was_measured_in_every_degree():
    cells = [(1, 1, 0.035), (1, 4, 0.05), (1, 16, 0.08), (2, 1, 0.03), (2, 4, 0.0375)]
    step_seconds = tuple(
        StepSeconds(degree=degree, batch=batch, seconds=seconds, num_samples=9)
        for degree, batch, seconds in cells
    )
    event = Calibration(replica=0, step_seconds=step_seconds)
    assert shown([event]).splitlines() == [
        "replica 0: decode step at batch 1: TP1 35.0 ms, TP2 30.0 ms (0.86 of TP1's)",
        "replica 0: decode step at batch 4: TP1 50.0 ms, TP2 37.5 ms (0.75 of TP1's)",
    ]


def test_the_tables_show_every_gain():
    text = io.StringIO()
    console = Console(file=text, width=120)
    stages = StageFigures([make_stage(gain_seconds=1.5), make_stage(gain_seconds=None)])
    summary = summarise([], stages, outcome="completed")
    console.print(switch_table(summary))
    console.print(summary_table(summary))
    assert "+1.50 s" in text.getvalue()
    assert "not measured" in text.getvalue()
    assert switch_table(summarise([], StageFigures(), outcome="failed")) is None


def test_the_switch_table_shows_the_last_switches_only():
    stages = StageFigures(make_stage(step=step) for step in range(40))
    summary = summarise([], stages, outcome="completed")
    table = switch_table(summary)
    assert table is not None and table.row_count == 12 and table.title == "Last 12 of 40 switches"
