"""Where a request goes: the facade's switchboard between SGLang's tokenizer manager and the ranks.

Each request goes to the least loaded group of the current layout, everything else to the
leaders of all groups. While a switch is under way the router holds what arrives and
sends it on, in order, when the new layout stands: whatever was sent before the hold lies
before the switch command in the same sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang.srt.managers.io_struct import (
    BatchTokenizedGenerateReqInput,
    TokenizedGenerateReqInput,
    sock_send,
)

from taper_policy.layout import leaders


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
        elif isinstance(message, BatchTokenizedGenerateReqInput):
            for request in message.batch:
                self._route(request)
        else:
            self.broadcast(message)

    async def dispatch_async(self, message: Any) -> None:
        self.dispatch(message)

    def broadcast(self, message: Any) -> None:
        """Send to the leader of every group, past the hold."""
        for rank in leaders(self.footprint, self.degree):
            sock_send(self._sockets[rank], message)

    def _route(self, request: TokenizedGenerateReqInput) -> None:
        heads = leaders(self.footprint, self.degree)
        loads = [0] * len(heads)
        for group in self._group_of.values():
            loads[group] += 1
        group = self.pinned if self.pinned is not None else loads.index(min(loads))
        self._group_of[request.rid] = group
        sock_send(self._sockets[heads[group]], request)

    def group_of(self, request_id: str) -> int | None:
        """The group that serves a request; None for one that is not known."""
        return self._group_of.get(request_id)

    def finished(self, request_id: str) -> None:
        self._group_of.pop(request_id, None)

    def hold(self) -> None:
        """Keep what arrives until `release`."""
        self._held = self._held or []

    def release(self, degree: int | None = None, groups: dict[str, int] | None = None) -> None:
        """Send what was held; with `degree`, to the new layout, whose requests serve in `groups`."""
        if degree is not None:
            self.degree = degree
            self._group_of = {rid: (groups or {}).get(rid, 0) for rid in self._group_of}
        held, self._held = self._held or [], None
        for message in held:
            self.dispatch(message)
