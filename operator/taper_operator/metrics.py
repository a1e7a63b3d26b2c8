"""The operator's own Prometheus metrics.

Events are counted where they happen; current values are read at each scrape. Labels have few values: none
names a job, a user's namespace or a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.election.leader_elector import LeaderElector
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.informer.work_queue import WorkQueue

PREFIX = "taper_operator_"
_BUCKETS_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class OperatorMetrics:
    """See the module's docstring. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._reconciles = self._counter("reconciles", "Reconciles of a key, by result.", "result")
        self._reconcile_seconds = Histogram(
            f"{PREFIX}reconcile_seconds",
            "Time to reconcile a key.",
            buckets=_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._requests = self._counter(
            "api_requests",
            "Requests to the API server, by method and HTTP status; status 0 means no answer.",
            "method",
            "status",
        )
        self._reports = self._counter("reports", "Reports posted by jobs, by result.", "result")
        self._report_writes = self._counter(
            "report_writes", "Attempts to write a report into a job's status, by result.", "result"
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", meaning, labels, registry=self._registry)

    def observe_report(self, result: str) -> None:
        self._reports.labels(result).inc()

    def observe_report_write(self, result: str) -> None:
        self._report_writes.labels(result).inc()

    def observe_reconcile(self, result: str, seconds: float) -> None:
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def observe_request(self, method: str, status: int) -> None:
        self._requests.labels(method, str(status)).inc()

    def watch(self, values: CurrentValues) -> None:
        """Read these at each scrape."""
        self._registry.register(values)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their content type, in the format requested by an HTTP `Accept` header."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


@dataclass(eq=False, kw_only=True)
class CurrentValues(Collector):
    """What is read at each scrape."""

    queue: WorkQueue[Any]
    reflectors: list[Reflector]
    elector: LeaderElector
    breaker: CircuitBreaker

    def collect(self) -> Iterator[Metric]:
        yield from _queue_metrics(self.queue)
        yield from _reflector_metrics(self.reflectors)
        yield _gauge("leader", "1 if this replica is the leader.", self.elector.is_leader_now())
        yield _gauge(
            "api_server_reachable", "1 if the API server answered the last request.", not self.breaker.is_open
        )


def _queue_metrics(queue: WorkQueue[Any]) -> Iterator[Metric]:
    yield _gauge("queue_depth", "Keys waiting to be reconciled.", queue.depth())
    yield _gauge(
        "queue_oldest_wait_seconds",
        "Longest time for which a key has been waiting.",
        queue.oldest_wait_seconds(),
    )
    yield _gauge(
        "queue_longest_handled_seconds",
        "Longest time for which a running reconcile has been running.",
        queue.longest_handled_seconds(),
    )
    yield CounterMetricFamily(f"{PREFIX}queue_adds", "Keys added to the queue.", queue.num_adds)
    yield CounterMetricFamily(
        f"{PREFIX}queue_retries", "Keys queued again after a failure.", queue.num_retries
    )


def _reflector_metrics(reflectors: list[Reflector]) -> Iterator[Metric]:
    """One series for each kind, however many namespaces are watched."""
    kinds = sorted({str(reflector.resource) for reflector in reflectors})
    of_kind = {kind: [r for r in reflectors if str(r.resource) == kind] for kind in kinds}
    synced = _family(GaugeMetricFamily, "cache_synced", "1 if the cache of the kind has been filled.")
    objects = _family(GaugeMetricFamily, "cache_objects", "Objects of the kind in the cache.")
    unreadable = _family(
        GaugeMetricFamily, "unreadable_objects", "Objects of the kind that are unreadable and skipped."
    )
    lists = _family(CounterMetricFamily, "lists", "Lists of the kind started.")
    watches = _family(CounterMetricFamily, "watches", "Watches of the kind started.")
    for kind, members in of_kind.items():
        synced.add_metric([kind], float(all(member.has_synced for member in members)))
        objects.add_metric([kind], members[0].cache.num_objects())
        unreadable.add_metric([kind], sum(member.num_unreadable for member in members))
        lists.add_metric([kind], sum(member.num_lists for member in members))
        watches.add_metric([kind], sum(member.num_watches for member in members))
    yield from (synced, objects, unreadable, lists, watches)


def _family(kind: type[Any], name: str, meaning: str) -> Any:
    return kind(f"{PREFIX}{name}", meaning, labels=["kind"])


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", meaning, float(value))
