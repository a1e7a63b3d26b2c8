"""The requests of a committed switch on their way back: RESUMED when the last of them decodes again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from taper_rollout.switching.rank_protocol import RankProtocol


@dataclasses.dataclass(slots=True, kw_only=True)
class Readmission:
    """Of one rank and one switch. `waiting` are the names of requests that were not prefilled yet.

    `paused_at` is when the rank's pause began, in seconds of `time.monotonic`.
    """

    protocol: RankProtocol
    waiting: set[str]
    paused_at: float
    prefilled_tokens: int = 0
    is_over: bool = False

    def step(self, batch: Any) -> None:
        """A forward pass has ended: requests that it prefilled decode from now on."""
        if not batch.forward_mode.is_decode():
            for request, prefilled in zip(batch.reqs, batch.extend_lens, strict=True):
                if request.rid in self.waiting:
                    self.waiting.remove(request.rid)
                    self.prefilled_tokens += int(prefilled)
        self.settle()

    def drop(self, names: Iterable[str]) -> None:
        """Requests were aborted while they waited: they will not come back."""
        self.waiting.difference_update(names)
        self.settle()

    def settle(self) -> None:
        """Publish RESUMED where none waits, or TIMEOUT where the switch's deadline has passed. Once."""
        if self.is_over:
            return
        if not self.waiting:
            self.protocol.resume(paused_at=self.paused_at, prefilled_tokens=self.prefilled_tokens)
            self.is_over = True
        elif self.protocol.expire():
            self.is_over = True
