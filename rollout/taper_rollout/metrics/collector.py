"""The Prometheus metrics of the replicas of one pod, written at the events that they tell.

One registry, however many replicas write to it, and no state of the process outside of it:
whoever hosts it (a process for each node, or the run's driver) hands it the events in JSON
form (`events.as_json`) and serves `exposition`. Its methods may be called from any thread.

A switch is told twice: by `SwitchDone` when it is done, and by its stage's `StageRecord`,
which knows its gain. It is counted once, by whichever comes first.

`prometheus_client` keeps figures in files if `PROMETHEUS_MULTIPROC_DIR` was set before it
was imported, as SGLang does for its own metrics: host this in a process without an engine.

Invariants (asserted by `tests/rollout/metrics/test_collector.py`):
- a switch is counted once, whether or not `SwitchDone` told of it;
- each label's values are those of `metric_table` and `other`; replicas are `MAX_REPLICAS` and `other`;
- the shrink ratio lies between 0 and 1; what a replica tells never changes another's series;
- what was not measured or not predicted (None, or not a finite number) leaves no sample.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from taper_rollout.metrics import definitions as table
from taper_rollout.metrics.definitions import Metric
from taper_rollout.switching.pause_phases import pause_phases

Values = Mapping[str, Any]
_Family = Counter | Gauge | Histogram | Summary


class RolloutMetrics:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._exposed = _WithoutCreated(self._registry)
        # One without labels waits for its first sample, or it would stand at 0 where nobody tells it.
        self._families = {m.name: _register(m, self._registry) for m in table.METRICS if m.labels}
        self._replicas: set[str] = set()
        self._largest_batch: dict[str, int] = {}
        self._told: dict[str, set[tuple[int, float]]] = {}
        self._lock = threading.Lock()

    def record(self, event: Values) -> None:
        """Write down one event in JSON form. Events of other kinds than are known here are passed over."""
        with self._lock:
            match event["kind"]:
                case "StageProgress":
                    self._record_progress(self._replica(event["replica"]), event)
                case "SwitchDone":
                    self._record_switch_done(self._replica(event["replica"]), event["switch"])
                case "StageRecord":
                    self._record_stage(self._replica(event["replica"]), event)
                case "Step":
                    self._set(table.TRAINING_STEP, event["step"])

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their content type, in the format that an HTTP `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        with self._lock:
            return encode(self._exposed), content_type

    # -- events ------------------------------------------------------------------------

    def _record_progress(self, replica: str, event: Values) -> None:
        largest = max(self._largest_batch.get(replica, 0), event["running"])
        self._largest_batch[replica] = largest
        self._set(table.RUNNING_REQUESTS, event["running"], replica=replica)
        self._set(table.BATCH_SHRINK_RATIO, event["running"] / largest if largest else 0.0, replica=replica)
        self._set(table.LAYOUT_DEGREE, event["degree"], replica=replica)
        self._set_whose(replica, event)

    def _record_switch_done(self, replica: str, switch: Values) -> None:
        self._told.setdefault(replica, set()).add(_identity(switch))
        if switch["outcome"] == "committed":
            self._set(table.LAYOUT_DEGREE, switch["to_degree"], replica=replica)
        self._count_switch(replica, switch)

    def _record_stage(self, replica: str, stage: Values) -> None:
        told = self._told.pop(replica, set())
        for switch in stage["switches"]:
            if _identity(switch) not in told:
                self._count_switch(replica, switch)
            if switch["outcome"] == "committed":
                self._add_signed(table.GAIN_SECONDS, switch.get("gain_seconds"), replica=replica)
        self._observe(table.STAGE_SECONDS, max(0.0, stage["ended_at"] - stage["started_at"]), replica=replica)
        self._add(table.IDLE_RANK_SECONDS, stage["idle_rank_seconds"], replica=replica)
        self._add(table.RESPONSES, len(stage["requests"]), replica=replica)
        tokens = sum(request["response_tokens"] for request in stage["requests"])
        self._add(table.RESPONSE_TOKENS, tokens, replica=replica)
        regret = _known(stage.get("regret"))
        if regret is not None:
            self._observe(table.REGRET_RATIO, max(0.0, regret), replica=replica)
            self._set(table.LAST_REGRET_RATIO, regret, replica=replica)
        self._largest_batch.pop(replica, None)
        self._set(table.RUNNING_REQUESTS, 0, replica=replica)
        self._set(table.BATCH_SHRINK_RATIO, 0, replica=replica)
        self._set_whose(replica, stage)

    def _set_whose(self, replica: str, event: Values) -> None:
        self._set(table.FOOTPRINT_RANKS, event["num_ranks"], replica=replica)
        self._set(table.GENERATION_STEP, event["step"], replica=replica)

    def _count_switch(self, replica: str, switch: Values) -> None:
        way = {name: switch[name] for name in ("from_degree", "to_degree", "kv")}
        outcome = switch["outcome"]
        self._add(table.SWITCHES, 1, replica=replica, outcome=outcome, **way)
        self._add(table.MOVED_BYTES, switch["moved_bytes"], replica=replica)
        self._add(table.RECOMPUTED_TOKENS, switch["prefilled_tokens"], replica=replica)
        gain = switch.get("predicted_gain_seconds")
        self._add_signed(table.PREDICTED_GAIN_SECONDS, gain, replica=replica, outcome=outcome)
        # A pause of 0 is one that was not measured: nobody lived through the switch.
        if outcome == "committed" and switch["live_requests"] and switch["pause_seconds"] > 0:
            self._count_pause(replica, switch, way)

    def _count_pause(self, replica: str, switch: Values, way: Values) -> None:
        pause_seconds = switch["pause_seconds"]
        self._observe(table.PAUSE_SECONDS, pause_seconds, replica=replica, **way)
        for phase, seconds in pause_phases(switch["parts_seconds"], pause_seconds).items():
            self._add(table.PAUSE_PHASE_SECONDS, seconds, replica=replica, phase=phase)
        predicted = _known(switch.get("predicted_pause_seconds"))
        if predicted is not None:
            self._observe(table.PREDICTED_PAUSE_SECONDS, predicted, replica=replica, **way)
            error = abs(predicted - pause_seconds) / pause_seconds
            self._observe(table.PAUSE_ERROR_RATIO, error, replica=replica)

    # -- series ------------------------------------------------------------------------

    def _replica(self, number: int) -> str:
        """A replica's label. A new one's counts begin at 0: a rate needs a value before the first event."""
        name = str(number)
        if name not in self._replicas and len(self._replicas) >= table.MAX_REPLICAS:
            name = table.OTHER
        if name in self._replicas:
            return name
        self._replicas.add(name)
        for metric in table.METRICS:
            if metric.kind != "gauge" and table.FROM_DEGREE not in metric.labels:
                names = [label.name for label in metric.labels]
                for values in itertools.product(*(label.values or (name,) for label in metric.labels)):
                    self._series(metric, dict(zip(names, values, strict=True)))
        return name

    def _series(self, metric: Metric, labels: Values) -> Any:
        """The series of exactly these labels of the metric; a value that the table lacks becomes `other`."""
        if not metric.labels:
            if metric.name not in self._families:
                self._families[metric.name] = _register(metric, self._registry)
            return self._families[metric.name]
        known = {label.name: label.values for label in metric.labels}
        bounded = {
            name: str(value) if not known[name] or str(value) in known[name] else table.OTHER
            for name, value in labels.items()
        }
        return self._families[metric.name].labels(**bounded)

    def _set(self, metric: Metric, value: float, **labels: Any) -> None:
        self._series(metric, labels).set(value)

    def _add(self, metric: Metric, amount: float, **labels: Any) -> None:
        self._series(metric, labels).inc(amount)

    def _observe(self, metric: Metric, value: float, **labels: Any) -> None:
        self._series(metric, labels).observe(value)

    def _add_signed(self, metric: Metric, amount: float | None, **labels: Any) -> None:
        known = _known(amount)
        if known is not None:
            self._add(metric, abs(known), sign="negative" if known < 0 else "positive", **labels)


class _WithoutCreated(Collector):
    """A registry without the creation times, which would double the series of each counter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Any]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _register(metric: Metric, registry: CollectorRegistry) -> _Family:
    labels = [label.name for label in metric.labels]
    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.meaning, labels, registry=registry)
        case "gauge":
            return Gauge(metric.name, metric.meaning, labels, registry=registry)
        case "summary":
            return Summary(metric.name, metric.meaning, labels, registry=registry)
        case "histogram":
            return Histogram(metric.name, metric.meaning, labels, registry=registry, buckets=metric.buckets)


def _identity(switch: Values) -> tuple[int, float]:
    """What sets a switch apart from the others of its replica: advised ones open no epoch."""
    return switch["epoch"], switch["at"]


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
