"""Routes requests in the facade: from SGLang's tokenizer manager to the ranks.

Each request goes to the least loaded group of the current layout, everything else to the
leaders of all groups. While a switch is under way the router holds what arrives and
sends it on, in order, when the new layout stands: whatever was sent before the hold lies
before the switch command in the same sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from sglang.srt.managers.io_struct import TokenizedGenerateReqInput, sock_send

from taper_policy.layout import leaders

# Queues are unbounded: only a socket without its other end has to wait at all.
SEND_MILLISECONDS = 1000


def bounded(socket: Any) -> Any:
    """The socket, which now drops a message instead of waiting for ever for its other end."""
    socket.setsockopt(zmq.SNDTIMEO, SEND_MILLISECONDS)
    return socket


class Router:
    """Sends the tokenizer manager's messages to group leaders."""

    def __init__(self, footprint: int, degree: int, sockets: Sequence[Any]) -> None:
        self.footprint, self.degree = footprint, degree
        self._sockets = sockets
        self.pinned: int | None = None
        self._held: list[Any] | None = None
        self._group_of: dict[str, int] = {}

    def dispatch(self, message: Any) -> None:
        if self._held is not None:
            self._held.append(message)
        elif isinstance(message, TokenizedGenerateReqInput):
            self._route(message)
        else:
            self.broadcast(message)

    async def dispatch_async(self, message: Any) -> None:
        self.dispatch(message)

    def broadcast(self, message: Any) -> None:
        """Send to the leader of every group, past the hold."""
        for rank in leaders(self.footprint, self.degree):
            self._send(rank, message)

    def _route(self, request: TokenizedGenerateReqInput) -> None:
        heads = leaders(self.footprint, self.degree)
        loads = [0] * len(heads)
        for group in self._group_of.values():
            loads[group] += 1
        group = self.pinned if self.pinned is not None else loads.index(min(loads))
        self._group_of[request.rid] = group
        self._send(heads[group], request)

    def _send(self, rank: int, message: Any) -> None:
        # A socket whose other end died has nobody to send to, and would wait for ever; the
        # engine reports the death and ends what was sent.
        with contextlib.suppress(zmq.Again):
            sock_send(self._sockets[rank], message)

    def group_of(self, request_id: str) -> int | None:
        """The group that serves a request; None for one that is not known."""
        return self._group_of.get(request_id)

    def finished(self, request_id: str) -> None:
        self._group_of.pop(request_id, None)

    def hold(self) -> None:
        """Keep what arrives until `release`."""
        self._held = self._held or []

    def move_to(self, degree: int, groups: Mapping[str, int]) -> None:
        """The layout is new; its requests serve in `groups`."""
        self.degree = degree
        self._group_of = {rid: groups.get(rid, 0) for rid in self._group_of}

    def release(self) -> None:
        """Send what was held."""
        held, self._held = self._held or [], None
        for message in held:
            self.dispatch(message)
