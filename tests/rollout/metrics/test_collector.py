"""Metrics of a replica's events, read back from the exposition."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from taper_rollout.events import (
    Calibration,
    Event,
    Failure,
    StageProgress,
    StageRecord,
    SwitchDone,
    SwitchRecord,
)
from taper_rollout.metrics.collector import RolloutMetrics
from taper_rollout.metrics.definitions import COUNTED_EVENTS, LABELS, MAX_REPLICAS, METRICS, OTHER

from ...examples import examples
from ..report.stage_builder import START, make_stage, make_step

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PREDICTED = {"predicted_pause_seconds": 0.1, "predicted_gain_seconds": 2.0}


def series(metrics: RolloutMetrics) -> Series:
    """Every sample by name and labels."""
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: RolloutMetrics, name: str, **labels: Any) -> float | None:
    """A sample, with replica 0 as the default; None where there is none."""
    found = {"replica": "0"} | {key: str(text) for key, text in labels.items()}
    return series(metrics).get((name, tuple(sorted(found.items()))))


def total(metrics: RolloutMetrics, name: str) -> float:
    return sum(amount for (sample, _), amount in series(metrics).items() if sample == name)


def progress(running: int, *, replica: int = 0, degree: int = 1, step: int = 1) -> StageProgress:
    return StageProgress(replica=replica, step=step, running=running, finished=0, degree=degree, num_ranks=2)


def stage(*, regret: float | None = None, **changes: Any) -> StageRecord:
    """A stage of four responses with one switch; `switch_...` changes the switch."""
    of_switch = {
        name.removeprefix("switch_"): changes.pop(name) for name in list(changes) if "switch_" in name
    }
    made = make_stage(**changes, regret=regret)
    switches = tuple(dataclasses.replace(switch, **of_switch) for switch in made.switches)
    return dataclasses.replace(made, switches=switches)


def done(switch: SwitchRecord, replica: int = 0) -> SwitchDone:
    return SwitchDone(replica=replica, step=1, switch=switch)


def recorded(*events: Event) -> RolloutMetrics:
    metrics = RolloutMetrics()
    for event in events:
        metrics.record(event)
    return metrics


def test_every_metric_of_the_table_is_exposed_after_a_run() -> None:
    predicted = {f"switch_{name}": amount for name, amount in PREDICTED.items()}
    metrics = recorded(progress(4), stage(regret=0.02, **predicted), make_step(1))
    families = {
        family.name: family for family in text_string_to_metric_families(metrics.exposition()[0].decode())
    }
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        assert family.samples
        labels = {label.name for label in metric.labels}
        assert all(set(sample.labels) - {"le"} == labels for sample in family.samples)


def test_a_batch_shrinks() -> None:
    metrics = RolloutMetrics()
    ratios = []
    for running in (2, 8, 4, 1):
        metrics.record(progress(running))
        ratios.append(value(metrics, "taper_batch_shrink_ratio"))
    assert ratios == [1.0, 1.0, 0.5, 0.125]
    assert value(metrics, "taper_running_requests") == 1
    metrics.record(progress(1, degree=2, step=7))
    assert value(metrics, "taper_layout_degree") == 2
    assert value(metrics, "taper_generation_step") == 7
    metrics.record(stage())
    assert value(metrics, "taper_running_requests") == 0
    metrics.record(progress(3))
    assert value(metrics, "taper_batch_shrink_ratio") == 1.0


def test_a_stage_is_counted() -> None:
    metrics = recorded(stage(lengths=(10, 20, 40, 200)))
    assert value(metrics, "taper_stage_seconds_sum") == pytest.approx(10.0)
    assert value(metrics, "taper_stage_seconds_bucket", le="5.0") == 0
    assert value(metrics, "taper_stage_seconds_bucket", le="10.0") == 1
    assert value(metrics, "taper_idle_rank_seconds_total") == 2.0
    assert value(metrics, "taper_responses_total") == 4
    assert value(metrics, "taper_response_tokens_total") == 270


def test_a_switch_is_counted_with_its_pause() -> None:
    way = {"from_degree": 1, "to_degree": 2, "kv": "migrate"}
    metrics = recorded(
        stage(switch_parts_seconds={"offer": 0.01, "quiesce": 0.03, "agree": 0.04, "kv": 0.02})
    )
    assert value(metrics, "taper_switches_total", outcome="committed", **way) == 1
    assert value(metrics, "taper_pause_seconds_sum", **way) == pytest.approx(0.08)
    assert value(metrics, "taper_pause_seconds_bucket", le="0.05", **way) == 0
    assert value(metrics, "taper_pause_seconds_bucket", le="0.1", **way) == 1
    assert value(metrics, "taper_pause_phase_seconds_total", phase="quiesce") == pytest.approx(0.02)
    assert total(metrics, "taper_pause_phase_seconds_total") == pytest.approx(0.08)
    assert value(metrics, "taper_moved_bytes_total") == 4096
    assert value(metrics, "taper_recomputed_tokens_total") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "aborted"},
        {"outcome": "advised"},
        {"switch_live_requests": 0},
        {"switch_pause_seconds": 0.0},
    ],
    ids=str,
)
def test_a_switch_without_running_requests_has_no_pause(changes: dict[str, Any]) -> None:
    metrics = recorded(stage(**changes, switch_predicted_pause_seconds=0.1))
    assert total(metrics, "taper_switches_total") == 1
    assert total(metrics, "taper_pause_seconds_count") == 0
    assert total(metrics, "taper_pause_phase_seconds_total") == 0
    assert total(metrics, "taper_predicted_pause_seconds_count") == 0


def test_predictions_are_compared_with_measurements() -> None:
    metrics = recorded(stage(switch_predicted_pause_seconds=0.1, switch_predicted_gain_seconds=2.0))
    way = {"from_degree": 1, "to_degree": 2, "kv": "migrate"}
    assert value(metrics, "taper_predicted_pause_seconds_sum", **way) == pytest.approx(0.1)
    assert value(metrics, "taper_pause_error_ratio_sum") == pytest.approx(0.25)
    assert value(metrics, "taper_predicted_gain_seconds_total", outcome="committed", sign="positive") == 2.0


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf], ids=str)
def test_a_missing_value_adds_no_sample(nothing: float | None) -> None:
    metrics = recorded(
        stage(
            regret=nothing,
            gain_seconds=None,
            switch_predicted_pause_seconds=nothing,
            switch_predicted_gain_seconds=nothing,
        )
    )
    assert total(metrics, "taper_predicted_pause_seconds_count") == 0
    assert total(metrics, "taper_pause_error_ratio_count") == 0
    assert total(metrics, "taper_predicted_gain_seconds_total") == 0
    assert total(metrics, "taper_gain_seconds_total") == 0
    assert total(metrics, "taper_regret_ratio_count") == 0
    assert value(metrics, "taper_last_regret_ratio") is None


def test_losses_and_gains_are_counted_separately() -> None:
    metrics = recorded(*(stage(step=step, gain_seconds=gain) for step, gain in enumerate((1.5, -0.5, 2.0))))
    assert value(metrics, "taper_gain_seconds_total", sign="positive") == 3.5
    assert value(metrics, "taper_gain_seconds_total", sign="negative") == 0.5


def test_an_advised_switch_has_no_gain() -> None:
    metrics = recorded(stage(outcome="advised", gain_seconds=0.3, switch_predicted_gain_seconds=4.0))
    assert total(metrics, "taper_gain_seconds_total") == 0
    assert value(metrics, "taper_predicted_gain_seconds_total", outcome="advised", sign="positive") == 4.0


def test_negative_regret_is_in_the_gauge_only() -> None:
    metrics = recorded(stage(regret=0.04), stage(step=2, regret=-0.01))
    assert value(metrics, "taper_regret_ratio_sum") == pytest.approx(0.04)
    assert value(metrics, "taper_regret_ratio_bucket", le="0.0") == 1
    assert value(metrics, "taper_last_regret_ratio") == -0.01


def test_counters_start_at_zero_with_the_first_event_of_a_replica() -> None:
    metrics = recorded(progress(4))
    assert value(metrics, "taper_gain_seconds_total", sign="negative") == 0
    assert value(metrics, "taper_moved_bytes_total") == 0
    assert value(metrics, "taper_regret_ratio_count") == 0


def test_the_training_step_is_missing_until_it_is_known() -> None:
    metrics = recorded(progress(4))
    assert ("taper_training_step", ()) not in series(metrics)
    metrics.record(make_step(3))
    assert series(metrics)["taper_training_step", ()] == 3


def test_two_replicas_share_a_registry_and_nothing_else() -> None:
    metrics = recorded(progress(8, replica=0), progress(2, replica=1), stage(replica=1))
    before = {key: amount for key, amount in series(metrics).items() if ("replica", "0") in key[1]}
    assert value(metrics, "taper_running_requests") == 8
    assert value(metrics, "taper_running_requests", replica=1) == 0
    assert value(metrics, "taper_responses_total") == 0
    assert value(metrics, "taper_responses_total", replica=1) == 4
    metrics.record(stage(replica=1, step=2))
    metrics.record(progress(5, replica=1))
    after = {key: amount for key, amount in series(metrics).items() if ("replica", "0") in key[1]}
    assert before == after


def test_two_registries_share_nothing() -> None:
    first, second = recorded(stage()), RolloutMetrics()
    assert total(first, "taper_switches_total") == 1
    assert series(second) == {}


def test_counted_events_are_those_that_change_metrics() -> None:
    (switch,) = stage().switches
    events = [progress(4), done(switch), stage(), make_step(1)]
    assert {type(event) for event in events} == set(COUNTED_EVENTS)
    assert all(series(recorded(event)) for event in events)


def test_other_events_are_ignored() -> None:
    metrics = recorded(Calibration(replica=0, step_seconds=()), Failure(message="no"))
    assert series(metrics) == {}


@given(
    when_done=st.lists(st.sampled_from(("before", "never")), max_size=6),
    outcomes=st.lists(st.sampled_from(("committed", "aborted", "advised")), min_size=6, max_size=6),
)
@examples(30)
def test_a_switch_is_counted_once(when_done: list[str], outcomes: list[str]) -> None:
    """Advised switches share an epoch: the time distinguishes them."""
    metrics = RolloutMetrics()
    ended = stage()
    (switch,) = ended.switches
    switches = tuple(
        dataclasses.replace(switch, at=START + index, outcome=outcomes[index])
        for index in range(len(when_done))
    )
    ended = dataclasses.replace(ended, switches=switches)
    for when, made in zip(when_done, switches, strict=True):
        if when == "before":
            metrics.record(done(made))
    metrics.record(ended)
    assert total(metrics, "taper_switches_total") == len(when_done)
    assert total(metrics, "taper_moved_bytes_total") == 4096 * len(when_done)
    assert total(metrics, "taper_pause_seconds_count") == outcomes[: len(when_done)].count("committed")
    assert total(metrics, "taper_gain_seconds_total") == 1.5 * outcomes[: len(when_done)].count("committed")
    # The next stage's switches are counted even if the replica restarted, and its epochs with it.
    metrics.record(ended)
    assert total(metrics, "taper_switches_total") == 2 * len(when_done)


def test_a_switch_between_stages_is_counted_and_changes_the_layout() -> None:
    (switch,) = stage().switches
    narrowed = dataclasses.replace(switch, from_degree=2, to_degree=1, live_requests=0, pause_seconds=0.0)
    metrics = recorded(progress(1, degree=2), done(narrowed))
    way = {"from_degree": 2, "to_degree": 1, "kv": "migrate"}
    assert value(metrics, "taper_switches_total", outcome="committed", **way) == 1
    assert value(metrics, "taper_layout_degree") == 1
    metrics.record(done(dataclasses.replace(narrowed, to_degree=8, outcome="aborted", epoch=2)))
    assert value(metrics, "taper_layout_degree") == 1


anything = st.one_of(st.integers(-3, 20), st.text(max_size=5))


@given(
    events=st.lists(
        st.fixed_dictionaries(
            {
                "replica": st.integers(0, 3 * MAX_REPLICAS),
                "from_degree": anything,
                "to_degree": anything,
                "kv": anything,
                "outcome": anything,
                "parts_seconds": st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=3),
            }
        ),
        max_size=5,
    )
)
@examples(30)
def test_labels_have_the_tables_values_whatever_happens(events: list[dict[str, Any]]) -> None:
    metrics = RolloutMetrics()
    (switch,) = stage().switches
    for event in events:
        replica = event.pop("replica")
        metrics.record(done(dataclasses.replace(switch, **event), replica))
    allowed = {label.name: {*label.values, OTHER} for label in LABELS if label.values}
    for _, labels in series(metrics):
        assert all(text in allowed[name] for name, text in labels if name in allowed)


def test_replicas_past_the_bound_are_one() -> None:
    metrics = recorded(*(progress(1, replica=number) for number in range(MAX_REPLICAS + 5)))
    names = {dict(labels)["replica"] for _, labels in series(metrics)}
    assert names == {str(number) for number in range(MAX_REPLICAS)} | {OTHER}
    metrics.record(progress(7, replica=3))
    assert value(metrics, "taper_running_requests", replica=3) == 7


@given(batches=st.lists(st.integers(0, 64), max_size=12), ends=st.sets(st.integers(0, 11)))
@examples(12)
def test_the_shrink_ratio_is_a_ratio_and_counts_never_fall(batches: list[int], ends: set[int]) -> None:
    metrics = RolloutMetrics()
    gauges = {metric.name for metric in METRICS if metric.kind == "gauge"}
    last: Series = {}
    for index, running in enumerate(batches):
        metrics.record(stage(step=index) if index in ends else progress(running))
        ratio = value(metrics, "taper_batch_shrink_ratio")
        assert ratio is not None
        assert 0 <= ratio <= 1
        now = series(metrics)
        assert all(now[key] >= amount for key, amount in last.items() if key[0] not in gauges)
        last = now


def test_openmetrics_is_served_on_request() -> None:
    metrics = recorded(progress(4), stage(regret=0.02))
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert openmetrics.exposition.CONTENT_TYPE_LATEST.partition(";")[0] in content_type
    names = {family.name for family in openmetrics_parser.text_string_to_metric_families(text.decode())}
    assert "taper_switches" in names
    assert metrics.exposition()[1].startswith("text/plain; version=0.0.4")


def test_threads_may_record_and_read_at_once() -> None:
    metrics = RolloutMetrics()
    threads = [
        threading.Thread(target=lambda name=name: [metrics.record(stage(replica=name)) for _ in range(50)])
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        series(metrics)
    assert total(metrics, "taper_switches_total") == 200
