"""Generates the page of the docs about metrics from the table that is registered."""

from __future__ import annotations

from taper_rollout.metrics.definitions import LABELS, METRICS, OTHER, Metric

_HEAD = f"""\
# Metrics

<!-- Made by `make docs` from taper_rollout.metrics.definitions; do not edit. -->

Each node has one endpoint for all of its replicas. `taper run` prints its address: loopback and a free
port, unless `spec.rollout.metrics` sets `host` and `port` (`actor_rollout_ref.rollout.custom.metrics`
with VeRL's own command). `GET /metrics` answers in Prometheus' text format, or in OpenMetrics if the
request asks for it.

Metrics are updated by events, not by scrapes. A value that was not measured or not predicted is left
out, never counted as 0. Label values that are not in the table below are counted as `{OTHER}`.
"""

QUERIES = (
    (
        "99th percentile of the pause, over an hour",
        "histogram_quantile(0.99, sum by (le) (rate(taper_pause_seconds_bucket[1h])))",
    ),
    (
        "Seconds gained by all switches of the last day",
        'sum(increase(taper_gain_seconds_total{sign="positive"}[1d]))\n'
        '  - sum(increase(taper_gain_seconds_total{sign="negative"}[1d]))',
    ),
    (
        "Share of rank time that is idle during generation",
        "sum(rate(taper_idle_rank_seconds_total[1h]))\n"
        "  / sum(rate(taper_stage_seconds_sum[1h]) * on (instance, replica) taper_footprint_ranks)",
    ),
    (
        "Share of attempted switches that were refused or aborted",
        'sum(rate(taper_switches_total{outcome=~"refused|aborted"}[1h]))\n'
        '  / sum(rate(taper_switches_total{outcome!="advised"}[1h]))',
    ),
    (
        "Mean regret of the last day",
        "sum(rate(taper_regret_ratio_sum[1d])) / sum(rate(taper_regret_ratio_count[1d]))",
    ),
)


def metric_page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, _metrics(), _labels(), _buckets(), _queries()])


def _metrics() -> str:
    head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
    return head + "".join(f"{_row(metric)}\n" for metric in METRICS)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label.name}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"


def _labels() -> str:
    head = "## Labels\n\n| label | values | meaning |\n|---|---|---|\n"
    return head + "".join(
        f"| `{label.name}` | {_values(label.values)} | {label.meaning} |\n" for label in LABELS
    )


def _values(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "a number"


def _buckets() -> str:
    head = "## Buckets\n\n| histogram | upper bounds |\n|---|---|\n"
    rows = (
        f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |\n"
        for metric in METRICS
        if metric.kind == "histogram"
    )
    return head + "".join(rows)


def _queries() -> str:
    examples = (f"{meaning}:\n\n```promql\n{query}\n```\n" for meaning, query in QUERIES)
    return "## Queries\n\n" + "\n".join(examples)
