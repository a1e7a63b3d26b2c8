"""Updates the Prometheus metrics of a node's replicas from their events.

One registry for all replicas, without state outside of it. The metrics host of the node passes the
events to `record` and serves `exposition`. Both may be called from any thread.

A switch is in two events: `SwitchDone` when it is done, and its stage's `StageRecord`, which has its
gain. It is counted once, at the first of them.

`prometheus_client` keeps values in files if `PROMETHEUS_MULTIPROC_DIR` was set before it was imported,
as SGLang does for its own metrics. So this must run in a process without an engine.

Invariants (asserted by `tests/rollout/metrics/test_collector.py`):
- a switch is counted once, with or without its `SwitchDone`;
- the values of a label are those of `definitions` and `other`; replicas are `MAX_REPLICAS` numbers and
  `other`;
- the shrink ratio lies between 0 and 1; events of a replica never change the series of another;
- a value that was not measured or not predicted (None, or not finite) adds no sample.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from taper_rollout.events import Event, StageProgress, StageRecord, Step, SwitchDone, SwitchRecord
from taper_rollout.metrics import definitions as table
from taper_rollout.metrics.definitions import Metric
from taper_rollout.switching.pause_phases import pause_phases

Labels = Mapping[str, Any]
_Family = Counter | Gauge | Histogram | Summary
_FAMILIES: Mapping[str, type[Counter | Gauge | Summary]] = {
    "counter": Counter,
    "gauge": Gauge,
    "summary": Summary,
}

# Their samples would double the series of each counter.
disable_created_metrics()  # type: ignore[no-untyped-call]


class RolloutMetrics:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # Metrics without labels are registered on their first sample, to avoid exporting a false 0.
        self._families = {m.name: _register(m, self._registry) for m in table.METRICS if m.labels}
        self._replicas: set[str] = set()
        self._largest_batch: dict[str, int] = {}
        self._counted: dict[str, set[tuple[int, float]]] = {}
        self._lock = threading.Lock()

    def record(self, event: Event) -> None:
        """Count one event. Other kinds of events are ignored."""
        with self._lock:
            match event:
                case StageProgress():
                    self._record_progress(self._replica(event.replica), event)
                case SwitchDone():
                    self._record_switch_done(self._replica(event.replica), event.switch)
                case StageRecord():
                    self._record_stage(self._replica(event.replica), event)
                case Step():
                    self._set(table.TRAINING_STEP, event.step)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type, in the format that an HTTP `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        with self._lock:
            return encode(self._registry), content_type

    # -- events ------------------------------------------------------------------------

    def _record_progress(self, replica: str, event: StageProgress) -> None:
        largest = max(self._largest_batch.get(replica, 0), event.running)
        self._largest_batch[replica] = largest
        self._set(table.RUNNING_REQUESTS, event.running, replica=replica)
        self._set(table.BATCH_SHRINK_RATIO, event.running / largest if largest else 0.0, replica=replica)
        self._set(table.LAYOUT_DEGREE, event.degree, replica=replica)
        self._set_origin(replica, event)

    def _record_switch_done(self, replica: str, switch: SwitchRecord) -> None:
        self._counted.setdefault(replica, set()).add(_identity(switch))
        if switch.outcome == "committed":
            self._set(table.LAYOUT_DEGREE, switch.to_degree, replica=replica)
        self._count_switch(replica, switch)

    def _record_stage(self, replica: str, stage: StageRecord) -> None:
        counted = self._counted.pop(replica, set())
        for switch in stage.switches:
            if _identity(switch) not in counted:
                self._count_switch(replica, switch)
            if switch.outcome == "committed":
                self._add_signed(table.GAIN_SECONDS, switch.gain_seconds, replica=replica)
        self._observe(table.STAGE_SECONDS, max(0.0, stage.generation_seconds), replica=replica)
        self._add(table.IDLE_RANK_SECONDS, stage.idle_rank_seconds, replica=replica)
        self._add(table.RESPONSES, len(stage.requests), replica=replica)
        tokens = sum(request.response_tokens for request in stage.requests)
        self._add(table.RESPONSE_TOKENS, tokens, replica=replica)
        regret = _known(stage.regret)
        if regret is not None:
            self._observe(table.REGRET_RATIO, max(0.0, regret), replica=replica)
            self._set(table.LAST_REGRET_RATIO, regret, replica=replica)
        self._largest_batch.pop(replica, None)
        self._set(table.RUNNING_REQUESTS, 0, replica=replica)
        self._set(table.BATCH_SHRINK_RATIO, 0, replica=replica)
        self._set_origin(replica, stage)

    def _set_origin(self, replica: str, event: StageProgress | StageRecord) -> None:
        self._set(table.FOOTPRINT_RANKS, event.num_ranks, replica=replica)
        self._set(table.GENERATION_STEP, event.step, replica=replica)

    def _count_switch(self, replica: str, switch: SwitchRecord) -> None:
        labels = {"from_degree": switch.from_degree, "to_degree": switch.to_degree, "kv": switch.kv}
        outcome = switch.outcome
        self._add(table.SWITCHES, 1, replica=replica, outcome=outcome, **labels)
        self._add(table.MOVED_BYTES, switch.moved_bytes, replica=replica)
        self._add(table.RECOMPUTED_TOKENS, switch.prefilled_tokens, replica=replica)
        gain = switch.predicted_gain_seconds
        self._add_signed(table.PREDICTED_GAIN_SECONDS, gain, replica=replica, outcome=outcome)
        # A pause of 0 was not measured: no request was running.
        if outcome == "committed" and switch.live_requests and switch.pause_seconds > 0:
            self._count_pause(replica, switch, labels)

    def _count_pause(self, replica: str, switch: SwitchRecord, labels: Labels) -> None:
        pause_seconds = switch.pause_seconds
        self._observe(table.PAUSE_SECONDS, pause_seconds, replica=replica, **labels)
        for phase, seconds in pause_phases(switch.parts_seconds, pause_seconds).items():
            self._add(table.PAUSE_PHASE_SECONDS, seconds, replica=replica, phase=phase)
        predicted = _known(switch.predicted_pause_seconds)
        if predicted is not None:
            self._observe(table.PREDICTED_PAUSE_SECONDS, predicted, replica=replica, **labels)
            error = abs(predicted - pause_seconds) / pause_seconds
            self._observe(table.PAUSE_ERROR_RATIO, error, replica=replica)

    # -- series ------------------------------------------------------------------------

    def _replica(self, number: int) -> str:
        """The label of a replica. Counters of a new one start at 0: a rate needs an earlier value."""
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

    def _series(self, metric: Metric, labels: Labels) -> Any:
        """The series of a metric with these labels; values that are not in the table become `other`."""
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


def _register(metric: Metric, registry: CollectorRegistry) -> _Family:
    labels = [label.name for label in metric.labels]
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.meaning, labels, registry=registry, buckets=metric.buckets)
    return _FAMILIES[metric.kind](metric.name, metric.meaning, labels, registry=registry)


def _identity(switch: SwitchRecord) -> tuple[int, float]:
    """Identifies a switch within its replica. Advised ones share an epoch, so the time is a part of it."""
    return switch.epoch, switch.at


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
