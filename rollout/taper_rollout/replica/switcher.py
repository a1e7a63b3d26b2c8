"""Switches of one replica's layout, one at a time, each with its epoch and the record of its outcome.

The replica's state follows from its ranks' journals whenever it is asked for
(`switching.replica_protocol`), so `GET /state` shows each state while it lasts, and a
record has all of them with their times.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from taper_policy.decision.decision import Decision
from taper_policy.profile.kv_choice import KvMode
from taper_policy.profile.profile import Profile
from taper_rollout.events import SwitchDone, SwitchRecord, SwitchTransition
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.stage import Stage
from taper_rollout.sglang.engine import CommandFailed, ElasticEngine, EngineDied
from taper_rollout.switching.figures import SwitchFigures
from taper_rollout.switching.kv_mode import kv_mode, kv_reported
from taper_rollout.switching.rank_protocol import replayed
from taper_rollout.switching.replica_protocol import followed
from taper_rollout.switching.states import SwitchEvent, SwitchProtocol, SwitchState

log = logging.getLogger("taper.switcher")

# What stopped a switch before anything changed is a refusal; all else aborts it.
REFUSALS = (SwitchEvent.REFUSED, SwitchEvent.PLAN_MISMATCHED)


class Switcher:
    """See the module's docstring. While `lock` is held no switch begins, and none is under way.

    Between migrating and recomputing each request's KV it chooses by the costs in `profile`.
    """

    def __init__(self, engine: ElasticEngine, settings: ReplicaSettings, emit: Callable[[Any], None]) -> None:
        self._engine, self._settings, self._emit = engine, settings, emit
        self._followed = SwitchProtocol(timeout_seconds=settings.rollout.switch.timeout_seconds)
        self.profile: Profile | None = None
        self.lock = asyncio.Lock()

    @property
    def protocol(self) -> SwitchProtocol:
        """The replica's place in the protocol, now."""
        self._followed = followed(self._followed, self._engine.journals())
        return self._followed

    @property
    def is_lost(self) -> bool:
        """Whether a switch could not be undone: the engine ends, or has ended."""
        return not self.lock.locked() and self._followed.state is SwitchState.ABORTED

    def as_json(self) -> dict[str, Any]:
        """What `GET /state` shows of switches."""
        protocol = self.protocol
        return {
            "state": protocol.state.value,
            "epoch": protocol.epoch,
            "rank_states": [replayed(journal).state.value for journal in self._engine.journals()],
            "transitions": [dataclasses.asdict(transition) for transition in _transitions(protocol)],
        }

    async def change_layout(self, degree: int, kv: KvMode) -> SwitchFigures | None:
        """Switch, and wait until all requests decode again; None where the layout is that already.

        Raises CommandFailed where the ranks refuse or abort it: the old layout serves on.
        """
        async with self.lock:
            if self._engine.degree == degree:
                return None
            return await self._switched(degree, kv)

    async def switch(self, decision: Decision, *, stage: Stage | None, step: int) -> None:
        """Switch as decided, unless the layout is that already, and report the outcome.

        `stage`, whose requests are live, gets the record; between stages it is None. A switch that
        was refused or aborted leaves the layout.
        """
        async with self.lock:
            before = self._engine.degree
            if before == decision.degree:
                return
            began_at = time.time()
            kv = kv_mode(self._settings.rollout.switch.kv, self.profile, before, decision.degree)
            figures = None
            try:
                figures = await self._switched(decision.degree, kv)
            except (CommandFailed, EngineDied) as failed:
                log.warning(
                    "replica %d: switch to degree %d: %s", self._settings.replica, decision.degree, failed
                )
                decision = dataclasses.replace(decision, reason=f"{decision.reason}; {failed}")
            record = self._record(
                decision, _outcome(self._followed), at=began_at, figures=figures, from_degree=before
            )
            if stage is not None:
                stage.failed_attempts += figures is None
                stage.add_switch(record, requests=figures.requests if figures else ())
            self._emit(SwitchDone(replica=self._settings.replica, step=step, switch=record))

    def advise(self, decision: Decision, *, stage: Stage) -> None:
        """Record a decision that is not carried out, unless the last one was the same."""
        if not stage.switches or stage.switches[-1].to_degree != decision.degree:
            stage.add_switch(self._record(decision, "advised"), requests=())

    async def settled(self) -> None:
        """Wait until no switch is under way, and the last one has its record."""
        async with self.lock:
            pass

    async def _switched(self, degree: int, kv: KvMode) -> SwitchFigures:
        """Propose a switch and follow it to its end."""
        self._followed = self.protocol.apply(SwitchEvent.PROPOSED, self.protocol.epoch + 1, time.monotonic())
        try:
            figures = await self._engine.switch(
                degree,
                kv=kv,
                epoch=self._followed.epoch,
                deadline_seconds=self._settings.rollout.switch.timeout_seconds,
            )
            return await self._resumed(figures)
        except CommandFailed:
            if self.protocol.state is SwitchState.PREPARED:
                # No rank took it up.
                self._apply(SwitchEvent.REFUSED)
                self._apply(SwitchEvent.RESUMED)
            raise
        except EngineDied:
            if self.protocol.state is not SwitchState.SERVING:
                self._apply(SwitchEvent.FAULT)
            raise

    async def _resumed(self, figures: SwitchFigures) -> SwitchFigures:
        """The figures with their pause; after the switch's deadline, of the ranks that have resumed."""
        remaining = self.protocol.remaining_seconds(time.monotonic()) or 0.0
        figures = await self._engine.resumed(figures, deadline_seconds=remaining)
        if self.protocol.state is not SwitchState.SERVING:
            log.warning(
                "replica %d: some requests do not decode %g s after a switch was proposed",
                self._settings.replica,
                self._settings.rollout.switch.timeout_seconds,
            )
            self._apply(SwitchEvent.TIMEOUT)
        return figures

    def _apply(self, event: SwitchEvent) -> None:
        self._followed = self._followed.apply(event, self._followed.epoch, time.monotonic())

    def _record(
        self,
        decision: Decision,
        outcome: str,
        *,
        at: float | None = None,
        figures: SwitchFigures | None = None,
        from_degree: int | None = None,
    ) -> SwitchRecord:
        """A decision and its outcome; `at` now and `from_degree` the present one unless given."""
        is_advice = outcome == "advised"
        record = SwitchRecord(
            epoch=self._followed.epoch,
            at=time.time() if at is None else at,
            from_degree=from_degree or self._engine.degree,
            to_degree=decision.degree,
            kv=kv_reported(self._settings.rollout.switch.kv, figures),
            outcome=outcome,
            reason=decision.reason,
            cause=None if is_advice or self._followed.cause is None else self._followed.cause.value,
            transitions=[] if is_advice else _transitions(self._followed),
            question=decision.question,
            predicted_gain_seconds=decision.gain_seconds,
            predicted_pause_seconds=decision.pause_seconds,
        )
        return record if figures is None else record.with_figures(figures)


def _outcome(protocol: SwitchProtocol) -> str:
    if protocol.cause is None:
        return "committed"
    return "refused" if protocol.cause in REFUSALS else "aborted"


def _transitions(protocol: SwitchProtocol) -> list[SwitchTransition]:
    """Those of the last switch, with times since the Unix epoch."""
    offset = time.time() - time.monotonic()
    return [
        SwitchTransition(event=one.event.value, state=one.state.value, at=one.at + offset)
        for one in protocol.transitions
    ]
