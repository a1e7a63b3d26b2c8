"""The table of metrics, and the page generated from it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from taper_rollout.metrics.definitions import LABELS, METRICS, OTHER, Metric

DOCS = Path(__file__).parents[3] / "docs"
UNITS = (
    "seconds",
    "bytes",
    "tokens",
    "ratio",
    "ranks",
    "requests",
    "responses",
    "switches",
    "degree",
    "step",
)
RESERVED = ("_count", "_sum", "_bucket", "_created", "_info")
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@every_metric
def test_names_follow_prometheus_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"taper(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.removesuffix("_total").endswith(UNITS)
    assert not metric.name.endswith(RESERVED)


@every_metric
def test_a_metric_is_explained(metric: Metric) -> None:
    assert metric.meaning.endswith(".")
    assert "|" not in metric.meaning
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_no_two_metrics_share_a_name() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_pause_buckets_span_a_millisecond_to_half_a_minute() -> None:
    (pause,) = [metric for metric in METRICS if metric.name == "taper_pause_seconds"]
    assert (pause.buckets[0], pause.buckets[-1]) == (0.001, 30.0)
    assert 0.15 in pause.buckets


def test_a_replicas_series_are_bounded() -> None:
    """An upper bound: it counts `other` for each label, and switches to the same degree."""
    total = 0
    for metric in METRICS:
        each = {"histogram": len(metric.buckets) + 3, "summary": 2}.get(metric.kind, 1)
        values = [len(label.values) + 1 if label.values else 1 for label in metric.labels]
        total += math.prod(values) * each
    assert total <= 3_300


def test_no_label_names_a_request_or_grows_with_the_run() -> None:
    assert [label.name for label in LABELS if not label.values] == ["replica"]
    assert all(OTHER not in label.values for label in LABELS)
    assert {label.name for metric in METRICS for label in metric.labels} == {label.name for label in LABELS}


@pytest.fixture(scope="module")
def reference() -> Any:
    """The module of the docs that makes the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import metrics_reference

        return metrics_reference


def test_the_page_has_every_metric_and_every_label_value(reference: Any) -> None:
    page = reference.metric_page()
    for metric in METRICS:
        assert page.count(f"| `{metric.name}` | {metric.kind} |") == 1
    for value in (value for label in LABELS for value in label.values):
        assert f"`{value}`" in page


def test_the_pages_queries_use_metrics_that_exist(reference: Any) -> None:
    exposed = {metric.name for metric in METRICS if metric.kind in ("counter", "gauge")}
    exposed |= {
        metric.name + suffix
        for metric in METRICS
        if metric.kind == "histogram"
        for suffix in ("_bucket", "_sum", "_count")
    }
    for _, query in reference.QUERIES:
        assert set(re.findall(r"taper_\w+", query)) <= exposed
        assert query.count("(") == query.count(")")
