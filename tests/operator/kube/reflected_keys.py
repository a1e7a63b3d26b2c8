"""A reflector with a fake API server, and the keys that it delivers."""

from __future__ import annotations

from random import Random
from typing import Any

import urllib3

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.resource import ObjectKey, own_key

from ..clock import Clock
from ..fake_api_server import JOBS, FakeApiServer

REFUSED = urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionRefusedError(111))


class DeliveredKeys:
    """Records the delivered keys and the version in the cache at that time, which must never go back."""

    def __init__(self, fake: FakeApiServer) -> None:
        self.fake = fake
        self.keys: list[ObjectKey] = []
        self.seen: dict[ObjectKey, str | None] = {}
        self.next_version: dict[ObjectKey, int] = {}
        self.cache: ObjectCache | None = None

    def __call__(self, key: ObjectKey) -> None:
        self.keys.append(key)
        assert self.cache is not None
        obj = self.cache.get(key)
        self.seen[key] = obj["metadata"]["resourceVersion"] if obj else None
        if obj:
            version = int(obj["metadata"]["resourceVersion"])
            assert version >= self.next_version.get(key, 0), f"{key} went back to {version}"
            self.next_version[key] = version
        elif key in self.next_version:
            # What is deleted does not come back as it was.
            self.next_version[key] += 1


def make_reflector(
    fake: FakeApiServer, clock: Clock | None = None, **options: Any
) -> tuple[Reflector, DeliveredKeys]:
    clock = clock or Clock()
    delivered = DeliveredKeys(fake)
    delivered.cache = options.pop("cache", ObjectCache(keys_of=own_key))
    options = {"deliver": delivered, "clock": clock, "random": Random(1)} | options
    return Reflector(
        fake.api_server(clock), options.pop("resource", JOBS), delivered.cache, **options
    ), delivered


def held(delivered: DeliveredKeys, namespace: str = "") -> dict[ObjectKey, str]:
    assert delivered.cache is not None
    keys = sorted(key for key in delivered.cache._entries if namespace in ("", key.namespace))
    found = [(key, delivered.cache.get(key)) for key in keys]
    return {key: obj["metadata"]["resourceVersion"] for key, obj in found if obj is not None}


def versions(fake: FakeApiServer, namespace: str = "") -> dict[ObjectKey, str]:
    return {key: obj["metadata"]["resourceVersion"] for key, obj in fake.all(JOBS, namespace).items()}
