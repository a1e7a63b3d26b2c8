"""Switches of one replica's layout, one at a time, each with its epoch, and the record of what it came to."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

from taper_policy.decision.decision import Decision
from taper_policy.profile.profile import Profile
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.events import SwitchRecord
from taper_rollout.sglang.engine import CommandFailed, ElasticEngine
from taper_rollout.switching.kv_mode import kv_mode, kv_reported
from taper_rollout.switching.states import SwitchEvent, SwitchProtocol, SwitchState

log = logging.getLogger("taper.switcher")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """A switch's record, and its live requests: [engine id, old group, KV tokens, new group] of each."""

    record: SwitchRecord
    requests: list[list[Any]]


class Switcher:
    """See the module's docstring. While `lock` is held no switch begins, and none is under way."""

    def __init__(self, engine: ElasticEngine, settings: ReplicaSettings) -> None:
        self._engine, self._settings = engine, settings
        self._protocol = SwitchProtocol(timeout_seconds=settings.rollout.switch.timeout_seconds)
        self.profile: Profile | None = None
        self.lock = asyncio.Lock()

    def use(self, profile: Profile | None) -> None:
        """Choose what becomes of each request's KV cache by the costs in `profile`."""
        self.profile = profile

    @property
    def state(self) -> SwitchState:
        """Of the protocol."""
        return self._protocol.state

    @property
    def epoch(self) -> int:
        """The number of the last switch."""
        return self._protocol.epoch

    async def change_layout(self, degree: int, kv: Any) -> dict[str, Any]:
        """Switch; the figures of `ElasticEngine.switch` and `resumed`, nothing at `degree` already.

        Raises CommandFailed where the ranks refuse or call it off: the old layout serves on.
        """
        if self._engine.degree == degree:
            return {}
        figures = await self._agree(degree, kv)
        return figures | await self._resumed()

    async def switch(self, decision: Decision, *, is_live: bool) -> Switched | None:
        """Switch as decided, unless the layout is that already. Where `is_live`, until all decode again."""
        async with self.lock:
            before = self._engine.degree
            if before == decision.degree:
                return None
            began_at = time.time()
            kv = kv_mode(self._settings.rollout.switch.kv, self.profile, before, decision.degree)
            try:
                figures = await self._agree(decision.degree, kv)
            except CommandFailed as refused:
                log.warning(
                    "replica %d: switch to degree %d: %s", self._settings.replica, decision.degree, refused
                )
                decision = dataclasses.replace(decision, reason=f"{decision.reason}; {refused}")
                return Switched(record=self.record(decision, "aborted", at=began_at), requests=[])
            if is_live:
                figures |= await self._resumed_or_late()
            record = self.record(decision, "committed", at=began_at, figures=figures, from_degree=before)
            return Switched(record=record, requests=figures["requests"])

    async def settled(self) -> None:
        """Wait until no switch is under way, and the one that was has its record."""
        async with self.lock:
            pass

    async def _agree(self, degree: int, kv: Any) -> dict[str, Any]:
        epoch = self._protocol.epoch + 1
        self._apply(SwitchEvent.PROPOSED, epoch)
        try:
            figures = await self._engine.switch(
                degree, kv=kv, epoch=epoch, deadline_seconds=self._settings.rollout.switch.timeout_seconds
            )
        except CommandFailed:
            self._apply(SwitchEvent.REFUSED, epoch)
            self._apply(SwitchEvent.RESUMED, epoch)
            raise
        for event in (
            SwitchEvent.ALL_AGREED,
            SwitchEvent.PLAN_MATCHED,
            SwitchEvent.ALL_DONE,
            SwitchEvent.RESUMED,
        ):
            self._apply(event, epoch)
        return figures

    async def _resumed_or_late(self) -> dict[str, Any]:
        """The pause; where it is not told in time the switch is on record without it."""
        try:
            return await self._resumed()
        except TimeoutError as late:
            log.warning("replica %d: the pause is not known: %s", self._settings.replica, late)
            return {}

    async def _resumed(self) -> dict[str, Any]:
        return await self._engine.resumed(deadline_seconds=self._settings.rollout.switch.timeout_seconds)

    def _apply(self, event: SwitchEvent, epoch: int) -> None:
        self._protocol = self._protocol.apply(event, epoch, time.monotonic())
        assert event is not SwitchEvent.RESUMED or self._protocol.state is SwitchState.SERVING

    def record(
        self,
        decision: Decision,
        outcome: str,
        *,
        at: float | None = None,
        figures: dict[str, Any] | None = None,
        from_degree: int | None = None,
    ) -> SwitchRecord:
        """What a decision came to; `at` now and `from_degree` the present one unless given."""
        figures = figures or {}
        return SwitchRecord(
            epoch=self._protocol.epoch,
            at=time.time() if at is None else at,
            from_degree=from_degree or self._engine.degree,
            to_degree=decision.degree,
            kv=kv_reported(self._settings.rollout.switch.kv, figures),
            outcome=outcome,
            reason=decision.reason,
            live_requests=figures.get("live_requests", 0),
            live_tokens=figures.get("live_tokens", 0),
            migrated_requests=figures.get("migrated_requests", 0),
            recomputed_requests=figures.get("recomputed_requests", 0),
            moved_bytes=figures.get("moved_bytes", 0),
            prefilled_tokens=figures.get("prefilled_tokens", 0),
            pause_seconds=figures.get("pause_seconds", 0.0),
            parts_seconds=figures.get("parts", {}),
            question=decision.question,
            predicted_gain_seconds=decision.gain_seconds,
            predicted_pause_seconds=decision.pause_seconds,
        )
