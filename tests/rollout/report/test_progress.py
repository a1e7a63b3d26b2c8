import io

from rich.console import Console

from taper_rollout.report.progress import ProgressDisplay, calibration_text
from taper_rollout.report.summary import summarise
from taper_rollout.report.table import summary_table, switch_table

from .stage_builder import make_stage, make_step

TIMES = "\N{MULTIPLICATION SIGN}"
GLANCE = {
    "kind": "StageProgress",
    "replica": 0,
    "step": 1,
    "running": 3,
    "finished": 1,
    "degree": 1,
    "num_ranks": 2,
}


def shown(events, *, is_terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=120)
    with ProgressDisplay(console, num_steps=5, num_responses=4) as display:
        for event in events:
            display.show([event])
    return text.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    text = shown([GLANCE, make_stage(), make_step()], is_terminal=False)
    switch, step = text.splitlines()
    assert switch.strip() == (
        f"switch 2{TIMES}TP1 → 1{TIMES}TP2 with 1 request running: pause 80 ms, gain +1.50 s"
    )
    assert step == (
        "step 1/5  reward 0.250  generation 10.0 s  tokens median 30, longest 200  1 switch (gain +1.50 s)"
    )


def test_on_a_terminal_the_bars_show_the_running_requests_and_the_layout():
    assert f"3 running in 2{TIMES}TP1" in shown([GLANCE], is_terminal=True)
    text = shown([GLANCE, make_stage(), make_step()], is_terminal=True)
    assert "done; training" in text
    assert "reward 0.250" in text


def test_where_metrics_are_is_told_in_a_line_with_the_node_where_there_are_several():
    served = {"kind": "MetricsServed", "url": "http://127.0.0.1:9400/metrics", "node": None}
    text = shown([served, served | {"node": "10.1.2.3"}], is_terminal=False)
    assert text.splitlines() == [
        "metrics: http://127.0.0.1:9400/metrics",
        "metrics: http://127.0.0.1:9400/metrics on 10.1.2.3",
    ]


def test_a_wait_is_told():
    assert shown([{"kind": "Waiting", "text": "waiting for room"}], is_terminal=False) == "waiting for room\n"


def test_where_a_run_goes_on_from_and_what_it_passed_over():
    resumed = {
        "kind": "Resumed",
        "step": 2,
        "directory": "/c/attempt-a-0001/global_step_2",
        "passed_over": [],
    }
    damaged = {"directory": "/c/attempt-a-0001/global_step_4", "reason": "is damaged: data.pt is missing"}
    text = shown([resumed, resumed | {"passed_over": [damaged]}], is_terminal=False)
    goes_on = "goes on from step 2: /c/attempt-a-0001/global_step_2"
    passed = "checkpoint /c/attempt-a-0001/global_step_4 is damaged: data.pt is missing"
    assert text.splitlines() == [goes_on, passed, goes_on]
    text = shown([resumed | {"directory": None, "step": 0, "passed_over": [damaged]}], is_terminal=False)
    assert text.splitlines() == [passed, "no checkpoint to go on from: training begins anew"]


def test_calibration():
    cells = [(1, 1, 0.035), (1, 4, 0.05), (1, 16, 0.08), (2, 1, 0.03), (2, 4, 0.0375)]
    step_seconds = [
        {"degree": degree, "batch": batch, "seconds": seconds, "num_samples": 9}
        for degree, batch, seconds in cells
    ]
    assert calibration_text({"replica": 0, "step_seconds": step_seconds}).splitlines() == [
        "replica 0: decode step at batch 1: TP1 35.0 ms, TP2 30.0 ms (0.86 of TP1's)",
        "replica 0: decode step at batch 4: TP1 50.0 ms, TP2 37.5 ms (0.75 of TP1's)",
    ]


def test_the_tables_show_every_gain():
    text = io.StringIO()
    console = Console(file=text, width=120)
    summary = summarise(
        [], [make_stage(gain_seconds=1.5), make_stage(gain_seconds=None)], outcome="completed"
    )
    console.print(switch_table(summary))
    console.print(summary_table(summary))
    assert "+1.50 s" in text.getvalue()
    assert "not measured" in text.getvalue()
    assert switch_table(summarise([], [], outcome="failed")) is None


def test_many_switches_are_cut_to_the_last():
    summary = summarise([], [make_stage(step=step) for step in range(40)], outcome="completed")
    table = switch_table(summary)
    assert table is not None and table.row_count == 12 and table.title == "Last 12 of 40 switches"
