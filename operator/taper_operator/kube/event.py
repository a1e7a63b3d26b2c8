"""Kubernetes events, which `kubectl describe` shows with an object. For transitions only.

An event's name is derived from the transition, so an operator that was killed and records the transition
again creates no second event. Events are for people: a failure to write one is logged and otherwise ignored.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import AlreadyExists, ApiError
from taper_operator.kube.request import READ_SECONDS
from taper_operator.kube.resource import EVENTS, KubeObject

log = logging.getLogger(__name__)

CONTROLLER = "taper.dev/operator"
_MAX_NOTE_BYTES = 1_024
_MAX_INSTANCE_CHARACTERS = 128
_MAX_NAME_CHARACTERS = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A transition of an object, to be recorded as an event.

    reason, action: in CamelCase
    occasion: distinguishes this transition from others with the same reason, such as the attempt's number
    """

    kind: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str
    occasion: str


def make_event(regarding: KubeObject, transition: Transition, *, instance: str, at: datetime) -> KubeObject:
    """The event of a transition. instance: the identity of this replica"""
    metadata = regarding["metadata"]
    # As Kubernetes does for objects without a namespace.
    namespace = metadata.get("namespace") or "default"
    about = "\0".join((metadata["uid"], transition.reason, transition.action, transition.occasion))
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    name = f"{metadata['name'][: _MAX_NAME_CHARACTERS - 17]}.{digest}"
    return EVENTS.manifest(
        {"namespace": namespace, "name": name},
        eventTime=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        type=transition.kind,
        reason=transition.reason,
        action=transition.action,
        note=_cut(transition.note),
        reportingController=CONTROLLER,
        reportingInstance=instance[:_MAX_INSTANCE_CHARACTERS],
        regarding={
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata.get("namespace", ""),
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    )


def record_event(api_server: ApiServer, event: KubeObject, *, read_seconds: float = READ_SECONDS) -> None:
    """Write an event, at most once. Raises nothing that the API server may answer."""
    try:
        api_server.create(EVENTS, event, read_seconds=read_seconds)
    except AlreadyExists:
        pass
    except ApiError as error:
        log.warning("event %s: not recorded: %s", event["reason"], error)


def _cut(note: str) -> str:
    """The API server limits a note in bytes."""
    text = note.encode()
    if len(text) <= _MAX_NOTE_BYTES:
        return note
    return text[: _MAX_NOTE_BYTES - 3].decode(errors="ignore") + "..."
