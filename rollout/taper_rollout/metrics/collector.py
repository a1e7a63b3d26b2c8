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
                    self._series(table.TRAINING_STEP).set(event.step)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type, in the format that an HTTP `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        with self._lock:
            return encode(self._registry), content_type

    # -- events ------------------------------------------------------------------------

    def _record_progress(self, replica: str, event: StageProgress) -> None:
        largest = max(self._largest_batch.get(replica, 0), event.running)
        self._largest_batch[replica] = largest
        self._series(table.RUNNING_REQUESTS, replica=replica).set(event.running)
        self._series(table.BATCH_SHRINK_RATIO, replica=replica).set(
            event.running / largest if largest else 0.0
        )
        self._series(table.LAYOUT_DEGREE, replica=replica).set(event.degree)
        self._set_origin(replica, event)

    def _record_switch_done(self, replica: str, switch: SwitchRecord) -> None:
        self._counted.setdefault(replica, set()).add(_identity(switch))
        if switch.outcome == "committed":
            self._series(table.LAYOUT_DEGREE, replica=replica).set(switch.to_degree)
        self._count_switch(replica, switch)

    def _record_stage(self, replica: str, stage: StageRecord) -> None:
        counted = self._counted.pop(replica, set())
        for switch in stage.switches:
            if _identity(switch) not in counted:
                self._count_switch(replica, switch)
            if switch.outcome == "committed":
                self._add_signed(table.GAIN_SECONDS, switch.gain_seconds, replica=replica)
        self._series(table.STAGE_SECONDS, replica=replica).observe(max(0.0, stage.generation_seconds))
        self._series(table.IDLE_RANK_SECONDS, replica=replica).inc(stage.idle_rank_seconds)
        self._series(table.RESPONSES, replica=replica).inc(len(stage.requests))
        tokens = sum(request.response_tokens for request in stage.requests)
        self._series(table.RESPONSE_TOKENS, replica=replica).inc(tokens)
        regret = _known(stage.regret)
        if regret is not None:
            self._series(table.REGRET_RATIO, replica=replica).observe(max(0.0, regret))
            self._series(table.LAST_REGRET_RATIO, replica=replica).set(regret)
        self._largest_batch.pop(replica, None)
        self._series(table.RUNNING_REQUESTS, replica=replica).set(0)
        self._series(table.BATCH_SHRINK_RATIO, replica=replica).set(0)
        self._set_origin(replica, stage)

    def _set_origin(self, replica: str, event: StageProgress | StageRecord) -> None:
        self._series(table.FOOTPRINT_RANKS, replica=replica).set(event.num_ranks)
        self._series(table.GENERATION_STEP, replica=replica).set(event.step)

    def _count_switch(self, replica: str, switch: SwitchRecord) -> None:
        labels = {"from_degree": switch.from_degree, "to_degree": switch.to_degree, "kv": switch.kv}
        outcome = switch.outcome
        self._series(table.SWITCHES, replica=replica, outcome=outcome, **labels).inc(1)
        self._series(table.MOVED_BYTES, replica=replica).inc(switch.moved_bytes)
        self._series(table.RECOMPUTED_TOKENS, replica=replica).inc(switch.prefilled_tokens)
        gain = switch.predicted_gain_seconds
        self._add_signed(table.PREDICTED_GAIN_SECONDS, gain, replica=replica, outcome=outcome)
        # A pause of 0 was not measured: no request was running.
        if outcome == "committed" and switch.live_requests and switch.pause_seconds > 0:
            self._count_pause(replica, switch, labels)

    def _count_pause(self, replica: str, switch: SwitchRecord, labels: Labels) -> None:
        pause_seconds = switch.pause_seconds
        self._series(table.PAUSE_SECONDS, replica=replica, **labels).observe(pause_seconds)
        for phase, seconds in pause_phases(switch.parts_seconds, pause_seconds).items():
            self._series(table.PAUSE_PHASE_SECONDS, replica=replica, phase=phase).inc(seconds)
        predicted = _known(switch.predicted_pause_seconds)
        if predicted is not None:
            self._series(table.PREDICTED_PAUSE_SECONDS, replica=replica, **labels).observe(predicted)
            error = abs(predicted - pause_seconds) / pause_seconds
            self._series(table.PAUSE_ERROR_RATIO, replica=replica).observe(error)

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
                    self._series(metric, **dict(zip(names, values, strict=True)))
        return name

    def _series(self, metric: Metric, **labels: Any) -> Any:
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

    def _add_signed(self, metric: Metric, amount: float | None, **labels: Any) -> None:
        known = _known(amount)
        if known is not None:
            self._series(metric, sign="negative" if known < 0 else "positive", **labels).inc(abs(known))


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
