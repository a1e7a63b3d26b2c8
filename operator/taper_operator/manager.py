"""Puts the operator together: clients, caches, reflectors, queue, elector, controller, report receiver.

There are three clients, each with connections of its own: the elector's, which nothing may delay; the
reader's; and the writer's, which checks with the elector before each write. If jobs report, there is a fourth
for what every replica may read and write. All share a circuit breaker, since they share an API server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from taper_operator.controller import Controller, Reconcile, Service
from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.client import ApiServer
from taper_operator.kube.connection import connect, fence_connections
from taper_operator.kube.election.leader_elector import LeaderElector
from taper_operator.kube.event import Transition, make_event, record_event
from taper_operator.kube.informer.cache import KeysOf, ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.informer.work_queue import WorkQueue
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource
from taper_operator.kube.timestamp import utc_now
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.metrics import CurrentValues, OperatorMetrics
from taper_operator.reports.receiver import ReportReceiver
from taper_operator.reports.server import ReportServer
from taper_operator.reports.tokens import ReportTokens
from taper_operator.reports.writer import ReportWriter
from taper_operator.settings.certificate import ReloadedFiles, server_context
from taper_operator.settings.settings import Settings, SettingsError

FIELD_MANAGER = "taper-operator"
# While a job's pods start, dozens of changes come within seconds: one reconcile a second is enough.
COOLDOWN_SECONDS = 1.0
# The reflector waits for the event to be written.
_EVENT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedKind:
    """A kind whose objects are kept in a cache.

    keys_of: the keys to reconcile when an object of it changes
    is_optional: the operator also works where the API server does not serve the kind
    departed_seconds: how long the cache keeps deleted objects
    """

    resource: Resource
    keys_of: KeysOf
    label_selector: str = ""
    is_optional: bool = False
    departed_seconds: float = 0.0


class Manager:
    """See the module's docstring.

    reader, writer: for the observer and the executor
    caches: by kind, filled once the controller reconciles
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Sequence[WatchedKind],
        *,
        make_client: Callable[[str], Any] = connect,
    ) -> None:
        """Raises SettingsError, and OSError where the port for reports cannot be opened.

        Starts nothing and sends no request.
        """
        self._settings = settings
        self._make_client = make_client
        self._breaker = CircuitBreaker()
        self.metrics = OperatorMetrics()
        self.queue: WorkQueue[ObjectKey] = WorkQueue(cooldown_seconds=COOLDOWN_SECONDS)
        self.elector = LeaderElector(
            self._api_server(connect_seconds=settings.lease_times.retry_period_seconds),
            key=ObjectKey(settings.namespace, settings.lease_name),
            identity=settings.identity,
            times=settings.lease_times,
        )
        self.reader = self._api_server()
        self.writer = self._api_server(write_seconds_left=self.elector.write_seconds_left)
        self.caches = {
            kind.resource: ObjectCache(keys_of=kind.keys_of, departed_seconds=kind.departed_seconds)
            for kind in kinds
        }
        self.reflectors = [
            self._reflector(kind, namespace) for kind in kinds for namespace in settings.watched_namespaces
        ]
        self.services = self._report_services() if settings.pod_policy.report_url else {}

    def controller(self, reconcile: Reconcile) -> Controller:
        current = CurrentValues(
            queue=self.queue, reflectors=self.reflectors, elector=self.elector, breaker=self._breaker
        )
        self.metrics.watch(current)
        return Controller(
            reflectors=self.reflectors,
            queue=self.queue,
            elector=self.elector,
            reconcile=reconcile,
            metrics=self.metrics,
            num_workers=self._settings.workers,
            address=self._settings.address,
            services={f"reflect {each}": each for each in self.reflectors} | self.services,
        )

    def _report_services(self) -> dict[str, Service]:
        """The services that receive reports and write them into statuses. Raises SettingsError."""
        files = (self._settings.report_certificate, self._settings.report_key)
        try:
            certificate = ReloadedFiles(files, lambda: server_context(*files))
        except (OSError, ValueError) as error:
            raise SettingsError([f"--report-certificate, --report-key: {error}"]) from error
        api_server, jobs = self._api_server(), self.caches[RLHF_JOBS]
        writer = ReportWriter(api_server, jobs, observe=self.metrics.observe_report_write)
        receiver = ReportReceiver(
            jobs,
            ReportTokens(api_server),
            writer,
            is_ready=lambda: all(reflector.has_synced for reflector in self.reflectors),
        )
        server = ReportServer(
            self._settings.report_address,
            receiver.receive,
            context=certificate.value,
            observe=self.metrics.observe_report,
        )
        return {"receive reports": server, "write reports": writer}

    def _api_server(self, **options: Any) -> ApiServer:
        client = self._make_client(self._settings.kubeconfig)
        if "write_seconds_left" in options:
            fence_connections(client, options["write_seconds_left"])
        return ApiServer(
            client,
            breaker=self._breaker,
            field_manager=FIELD_MANAGER,
            observe=self.metrics.observe_request,
            **options,
        )

    def _reflector(self, kind: WatchedKind, namespace: str) -> Reflector:
        return Reflector(
            self.reader,
            kind.resource,
            self.caches[kind.resource],
            deliver=self.queue.add,
            namespace=namespace,
            label_selector=kind.label_selector,
            is_optional=kind.is_optional,
            warn=self._warn,
        )

    def _warn(self, obj: KubeObject, error: Exception) -> None:
        """Record an event about an unreadable object; the replica that sees it first does so."""
        transition = Transition(
            kind="Warning",
            reason="Unreadable",
            action="Watch",
            note=f"The operator cannot read this object and skips it: {error!r}",
            occasion="",
        )
        try:
            event = make_event(obj, transition, instance=self._settings.identity, at=utc_now())
        except (KeyError, TypeError, AttributeError):
            return  # The object has no usable identity; the log and the metric report it.
        record_event(self.reader, event, read_seconds=_EVENT_SECONDS)
