"""What many tests at a time look at: caches of the cluster, so that waiting costs the API server nothing."""

from __future__ import annotations

import threading
import time
from random import Random

from taper_operator.kube.client import ApiServer
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.manifests.names import job_keys

from .job_sandbox import OWNED_KINDS

_KINDS = (RLHF_JOBS, *OWNED_KINDS)


class Mirror:
    """See the module's docstring. It is a little behind. Start it, and stop it."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self._caches = {kind: ObjectCache(keys_of=job_keys) for kind in _KINDS}
        self._reflectors = [
            Reflector(
                api,
                kind,
                cache,
                deliver=lambda key: None,
                clock=time.monotonic,
                random=Random(),
                namespace=namespace,
            )
            for kind, cache in self._caches.items()
        ]
        self._threads = [threading.Thread(target=each.run, daemon=True) for each in self._reflectors]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()
        for thread in self._threads:
            thread.join(10)

    def found(self, kind: Resource, namespace: str, name: str) -> KubeObject | None:
        """The object, None if there is none."""
        return self._caches[kind].get(ObjectKey(namespace, name))

    def made(self, kind: Resource, namespace: str, job: str) -> list[KubeObject]:
        """What there is of a job."""
        return self._caches[kind].of(ObjectKey(namespace, job))

    def remains(self, namespace: str, job: str) -> list[str]:
        """What is there of a job that has gone."""
        return [
            f"{kind} {obj['metadata']['name']}"
            for kind in OWNED_KINDS
            for obj in self.made(kind, namespace, job)
        ]
