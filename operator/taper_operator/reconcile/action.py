"""The actions of a plan. Each is idempotent."""

from __future__ import annotations

from dataclasses import dataclass

from taper_operator.kube.resource import KubeObject, ObjectKey, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create an object. may_exist: an existing object of that name is accepted, whoever owns it"""

    resource: Resource
    obj: KubeObject
    may_exist: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Update an object of this job to its desired state, if it is still the one that was observed."""

    resource: Resource
    obj: KubeObject
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete the object with that uid, and what it owns."""

    resource: Resource
    key: ObjectKey
    uid: str


Action = Create | Apply | Delete
