"""What a plan wants done. Each is safe to be done again."""

from __future__ import annotations

from dataclasses import dataclass

from taper_operator.kube.event import EventType
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Make an object. may_exist: one of that name that is there already will do, whoever's it is"""

    resource: Resource
    obj: KubeObject
    may_exist: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Make an object of this job what it should be. It is changed only if it is the one that was seen."""

    resource: Resource
    obj: KubeObject
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete that very object, and what it owns."""

    resource: Resource
    key: ObjectKey
    uid: str


Action = Create | Apply | Delete


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A transition, recorded as a Kubernetes event. occasion: distinguishes it from others of its reason"""

    kind: EventType
    reason: str
    action: str
    note: str
    occasion: str
