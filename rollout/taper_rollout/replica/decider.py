"""Decides for one replica by its job's policy, and emits every decision of the predictor for the ledger.

The predictor decides when the batch has shrunk enough and no request waits or may still arrive; a switch
rule is asked at every poll. Each decision of the predictor is emitted with everything that it followed
from, and at the end of a stage the outcome of each switch.

The guard: if the last `GUARD_SWITCHES` measured gains of the predictor's switches sum to a loss, the
replica only advises for `GUARD_STAGES` stages; then it switches again.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.correction import Correction
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.decision import Decision
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import (
    CorrectionEntry,
    DecisionEntry,
    FinishedResponse,
    FirstLayoutEntry,
    LedgerRecord,
    ReviewEntry,
    StartEntry,
    SwitchOutcomeEntry,
    entry_as_json,
)
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.snapshot import Snapshot
from taper_policy.decision.switch_rules import SwitchRule
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.profile import Profile
from taper_rollout.events import LedgerEntry, StageRecord
from taper_rollout.job.policy_settings import policy_of
from taper_rollout.profiling.replica_settings import ReplicaSettings

log = logging.getLogger("taper.decisions")

GUARD_SWITCHES = 4
GUARD_STAGES = 8

LiveRequestsReader = Callable[[], tuple[LiveRequest, ...] | None]


class Decider:
    """See the module's docstring. Events go to `emit`."""

    def __init__(self, settings: ReplicaSettings, emit: Callable[[Any], None]) -> None:
        self._settings, self._emit = settings, emit
        self._policy: SwitchRule | PredictorSettings = policy_of(
            settings.rollout.policy, settings.rollout.degrees
        )
        self._advisor: Advisor | None = None
        self._in_stage = False
        self._step = 0
        self._expected: ExpectedStage | None = None
        self._correction = Correction()
        self._gains: deque[float] = deque(maxlen=GUARD_SWITCHES)
        self._guarded_stages = 0

    def use(self, profile: Profile | None) -> None:
        """Predict with `profile`. Without one the predictor never switches, and a warning is logged."""
        if not isinstance(self._policy, PredictorSettings) or self._settings.rollout.mode == "off":
            return
        if profile is None:
            log.warning("replica %d has no profile: it will not switch", self._settings.replica)
            return
        profile = dataclasses.replace(profile, kv=self._settings.rollout.switch.kv)
        rules = DecisionSettings(degrees=self._settings.rollout.degrees, predictor=self._policy)
        self._advisor = Advisor(profile, rules, max_tokens=self._settings.rollout.response_tokens)
        self._correction = Correction()
        self._enter(
            StartEntry(
                footprint=self._settings.rollout.footprint,
                degrees=self._settings.rollout.degrees,
                mode=self._settings.rollout.mode,
                max_tokens=self._settings.rollout.response_tokens,
                predictor=self._policy,
                profile=profile,
            )
        )

    @property
    def mode(self) -> str:
        """`off`, `advise` or `enforce`: the job's, unless the guard holds it back."""
        guarded = self._guarded_stages > 0 and self._settings.rollout.mode == "enforce"
        return "advise" if guarded else self._settings.rollout.mode

    def start_stage(self, step: int, correction: Correction) -> None:
        """A stage of global step `step` begins; `correction` of the profile is what was learned until now."""
        self._in_stage, self._step = True, step
        if self._advisor is None:
            return
        self._advisor.start_stage(step)
        if correction != self._correction:
            self._correction = correction
            self._advisor.correct(correction)
            self._enter(CorrectionEntry(step=step, correction=correction))

    def first_degree(self) -> int:
        """The degree of the layout that the stage begins in: about as many requests come as in the last one.

        The base layout in a replica's first stage, and where nothing may be done or predicted.
        """
        base = self._settings.rollout.degrees[0]
        if self._advisor is None or self._expected is None:
            return base
        choice = self._advisor.first_layout(self._expected)
        self._enter(FirstLayoutEntry(step=self._step, expected=self._expected, choice=choice))
        return choice.degree if self.mode == "enforce" else base

    def add_finished(self, prompt: str, tokens: int) -> None:
        """A response of this stage has ended by itself: it was not aborted."""
        if self._advisor is not None and self._in_stage:
            self._advisor.add_finished([FinishedResponse(prompt, tokens)])

    def decide(self, snapshot: Snapshot, live: LiveRequestsReader) -> Decision | None:
        """The layout to switch to now, or None to stay. `live` lists the requests of the moment."""
        if not isinstance(self._policy, PredictorSettings):
            return self._policy.decide(snapshot)
        if self._advisor is None or not snapshot.is_settled:
            return None
        if not self._advisor.is_due(snapshot.num_running, snapshot.longest_decoded_tokens):
            return None
        requests = live()
        return None if requests is None else self._ask(self._advisor, snapshot, requests)

    def _ask(
        self, advisor: Advisor, snapshot: Snapshot, requests: tuple[LiveRequest, ...]
    ) -> Decision | None:
        entry = advisor.decide(snapshot.with_live(requests), time.monotonic())
        self._enter(entry)
        return _decision(entry) if entry.is_switch else None

    def end_stage(self, record: StageRecord | None) -> None:
        """The stage has ended; `record` has its review and the gains of its switches."""
        self._in_stage = False
        if self._advisor is None:
            return
        if record is not None:
            self._expected = _expected(record)
        end = self._advisor.end_stage()
        for switch in record.switches if record else ():
            self._enter(SwitchOutcomeEntry(step=end.step, switch=dataclasses.asdict(switch)))
            if switch.outcome == "committed" and switch.gain_seconds is not None:
                self._gains.append(switch.gain_seconds)
        if record is not None and record.review is not None:
            self._enter(ReviewEntry(step=end.step, review=record.review))
        self._enter(end)
        self._guard()

    def _guard(self) -> None:
        if self._guarded_stages > 0:
            self._guarded_stages -= 1
        elif len(self._gains) == GUARD_SWITCHES and sum(self._gains) < 0:
            log.warning(
                "replica %d: the last %d switches lost %.2f s; it only advises for %d stages",
                self._settings.replica,
                GUARD_SWITCHES,
                -sum(self._gains),
                GUARD_STAGES,
            )
            self._gains.clear()
            self._guarded_stages = GUARD_STAGES

    def _enter(self, entry: LedgerRecord) -> None:
        self._emit(LedgerEntry(replica=self._settings.replica, at=time.time(), entry=entry_as_json(entry)))


def _expected(record: StageRecord) -> ExpectedStage:
    """The next stage is expected to be like the last one."""
    requests = record.requests
    return ExpectedStage(
        num_requests=len(requests),
        num_prompts=len({request.prompt for request in requests}),
        prompt_tokens=round(statistics.fmean(request.prompt_tokens for request in requests)),
    )


def _decision(entry: DecisionEntry) -> Decision:
    choice = entry.choice
    option = choice.option(choice.degree)
    return Decision(
        degree=choice.degree,
        reason=choice.reason,
        question=entry.number,
        gain_seconds=choice.gain_seconds,
        pause_seconds=None if option is None else option.pause_seconds,
    )
