"""The test cluster as its administrator sees it: what tests ask of it beyond one request."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from kubernetes.client import CoreV1Api
from kubernetes.client.exceptions import ApiException

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.client import ApiServer
from taper_operator.kube.connection import connect
from taper_operator.kube.errors import AlreadyExists, Conflict, NotFound
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource
from taper_operator.manifests.kinds import DEFINITIONS

from .control_plane import ControlPlane
from .dry_run import DryRun

T = TypeVar("T")

NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", is_namespaced=False)
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)
PRIORITY_CLASSES = Resource(
    group="scheduling.k8s.io",
    version="v1",
    plural="priorityclasses",
    kind="PriorityClass",
    is_namespaced=False,
)
HOSTNAME = "kubernetes.io/hostname"
_IMPATIENT = Backoff(first_seconds=0.1, cap_seconds=0.5)
_WAIT_SECONDS = 30.0
# Sixty scenarios that poll ten times a second would load the API server more than the operators under test:
# a long wait polls less often.
_POLL_SECONDS = 0.1
_POLL_SHARE = 0.05
_MOST_POLL_SECONDS = 1.0


class Cluster:
    """See the module's docstring. api, dry_run: with the rights of an administrator"""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.api = self.new_api()
        self.dry_run = self.new_api(DryRun)
        self._core: Any = CoreV1Api(connect(str(plane.admin_kubeconfig)))
        self._numbers = itertools.count()

    def new_api(self, kind: type[ApiServer] = ApiServer) -> ApiServer:
        """The API server, over connections of its own."""
        return kind(
            connect(str(self.plane.admin_kubeconfig)),
            breaker=CircuitBreaker(clock=time.monotonic, random=Random(), backoff=_IMPATIENT),
            clock=time.monotonic,
            field_manager="tests",
        )

    # -- CRDs and namespaces --------------------------------------------------------

    def define(self, *definitions: KubeObject) -> None:
        """Apply CRDs, and wait until they are served."""
        for definition in definitions:
            self.api.apply(DEFINITIONS, definition)
        for definition in definitions:
            key = ObjectKey("", definition["metadata"]["name"])
            wait_for(lambda key=key: condition(self.api.get(DEFINITIONS, key), "Established") == "True")

    def new_namespace(self, name: str = "test") -> str:
        """A namespace of a test's own, where only pods of the restricted profile may run."""
        name = f"{name}-{next(self._numbers)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api.create(NAMESPACES, {"metadata": {"name": name, "labels": labels}, **_kind(NAMESPACES)})
        return name

    # -- nodes and pods ----------------------------------------------------------------------

    def new_node(self, labels: dict[str, str] | None = None, *, gpus: int = 8, cpus: int = 64) -> str:
        """A node with GPUs."""
        name = f"node-{next(self._numbers)}"
        amounts = {"cpu": str(cpus), "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
        node: KubeObject = {
            **_kind(NODES),
            "metadata": {"name": name, "labels": {HOSTNAME: name} | (labels or {})},
            "status": {"capacity": amounts, "allocatable": amounts},
        }
        self.api.create(NODES, node)
        return name

    def taint(self, node: str, effect: str, key: str = "example.com/reclaimed") -> None:
        """A taint, or none of that key any more."""

        def change(obj: KubeObject) -> None:
            kept = [each for each in obj["spec"].get("taints", []) if each["key"] != key]
            obj["spec"]["taints"] = [*kept, *([{"key": key, "effect": effect}] if effect else [])]

        self.change(NODES, ObjectKey("", node), change)

    def label(self, node: str, labels: dict[str, str]) -> None:
        self.change(NODES, ObjectKey("", node), lambda obj: obj["metadata"]["labels"].update(labels))

    def evict(self, pod: KubeObject) -> None:
        """As `kubectl drain` does. A pod that has gone is left alone."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        try:
            self._core.create_namespaced_pod_eviction(name, namespace, body)
        except ApiException as error:
            if error.status != 404:
                raise

    def token_of(self, namespace: str, service_account: str) -> str:
        """A token for an hour, as a pod of that ServiceAccount gets it."""
        body = {"spec": {"audiences": [], "expirationSeconds": 3600}}
        reported = self._core.create_namespaced_service_account_token(service_account, namespace, body)
        return str(reported.status.token)

    def projected_token(self, pod: KubeObject, projection: KubeObject) -> str:
        """A token as the kubelet asks for one: for a pod, and good for as long as that pod is there."""
        metadata, spec = pod["metadata"], pod["spec"]
        holder = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        body = {
            "spec": {
                "audiences": [projection["audience"]],
                "expirationSeconds": projection["expirationSeconds"],
                "boundObjectRef": holder,
            }
        }
        reported = self._core.create_namespaced_service_account_token(
            spec["serviceAccountName"], metadata["namespace"], body
        )
        return str(reported.status.token)

    # -- reading -----------------------------------------------------------------------------

    def found(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """The object, None if there is none."""
        try:
            return self.api.get(resource, ObjectKey(namespace, name))
        except NotFound:
            return None

    def all(self, resource: Resource, namespace: str, selector: str = "") -> list[KubeObject]:
        """The objects of a namespace."""
        return self.api.list(resource, namespace=namespace, label_selector=selector).items

    def ensure(self, resource: Resource, obj: KubeObject) -> None:
        """Make an object unless it is there."""
        with contextlib.suppress(AlreadyExists):
            self.api.create(resource, _kind(resource) | obj)

    def delete(self, resource: Resource, obj: KubeObject) -> None:
        """Delete an object and what it owns."""
        metadata = obj["metadata"]
        with contextlib.suppress(NotFound):
            self.api.delete(
                resource, ObjectKey(metadata.get("namespace", ""), metadata["name"]), uid=metadata["uid"]
            )

    def change(self, resource: Resource, key: ObjectKey, change: Callable[[KubeObject], None]) -> KubeObject:
        """Read an object, change it and write it, again if another was faster."""

        def changed() -> KubeObject | None:
            obj = self.api.get(resource, key)
            change(obj)
            try:
                return self.api.replace(resource, obj)
            except Conflict:
                return None

        return wait_for(changed)


def wait_for(
    ask: Callable[[], T | None],
    seconds: float = _WAIT_SECONDS,
    *,
    why: Callable[[], object] = lambda: "",
    moves: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Poll until the value is true, and return it.

    seconds: the deadline, which starts again whenever `moves` returns something else
    why: what to say when the answer never is
    """
    began = moved_at = clock()
    last = None
    while not (answer := ask()):
        now = clock()
        if (state := moves()) != last:
            last, moved_at = state, now
        left = moved_at + seconds - now
        assert left > 0, f"not within {seconds} s; {why()}"
        sleep(min(left, _poll_seconds(now - began)))
    return answer


def _poll_seconds(waited_seconds: float) -> float:
    """The pause before the next question, a share of the time that has been waited."""
    return min(_MOST_POLL_SECONDS, max(_POLL_SECONDS, _POLL_SHARE * waited_seconds))


def condition(obj: KubeObject, kind: str) -> str:
    """`status` of a condition, empty without one."""
    for each in obj.get("status", {}).get("conditions") or ():
        if each["type"] == kind:
            return str(each["status"])
    return ""


def _kind(resource: Resource) -> KubeObject:
    return {"apiVersion": resource.api_version, "kind": resource.kind}
