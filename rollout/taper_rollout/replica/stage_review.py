"""Reviews a replica's finished stages with its profile: other plans are simulated with the true lengths.

The simulation assumes that all requests are there from the start and none waits. A stage in which that
did not hold is not reviewed, and its record says why. With `mode: advise` the predictor is simulated as
well.

An error in a review is logged and recorded as the reason; it never changes how the stage ends.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import cast

from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.ledger import FinishedResponse
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.profile.profile import Profile
from taper_policy.review.advice import AdviceEstimator
from taper_policy.review.review import RecordedRequest, RecordedStage, RecordedSwitch, as_simulated, review
from taper_rollout.events import Review, StageRecord
from taper_rollout.job.policy_settings import policy_of
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.stage import Ended, Moment, Stage

log = logging.getLogger("taper.review")

# A request that waits for so long, and for such a share of the stage, and for longer than all prefills
# take, waits for room: outputs lag behind.
WAIT_SECONDS = 0.5
WAIT_SHARE = 0.05
# Requests that come when more than such a share has ended are another wave of the stage.
ENDED_SHARE = 0.1


class NotJudged(ValueError):
    """The stage cannot be simulated; the text says why."""


class StageReviewer:
    """See the module's docstring. One per replica; it reviews stages once it has a profile."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._profile: Profile | None = None
        self._advice: AdviceEstimator | None = None

    def use(self, profile: Profile | None) -> None:
        """Review with `profile`."""
        self._profile = profile and dataclasses.replace(profile, kv=self._settings.rollout.switch.kv)
        policy = policy_of(self._settings.rollout.policy, self._settings.rollout.degrees)
        if self._profile is None or self._settings.rollout.mode != "advise":
            return
        if isinstance(policy, PredictorSettings):
            rules = DecisionSettings(degrees=self._settings.rollout.degrees, predictor=policy)
            self._advice = AdviceEstimator(
                self._profile, rules, max_tokens=self._settings.rollout.response_tokens
            )

    def judged(self, stage: Stage, record: StageRecord) -> StageRecord:
        """The record with its review; as it is without a profile. Never raises."""
        if self._profile is None:
            return record
        try:
            found = self._review(self._profile, stage, record)
        except ValueError as reason:
            self._learn(record)
            return dataclasses.replace(record, review={"not_judged": str(reason)})
        except Exception as fault:
            log.exception("replica %d: a stage could not be reviewed", self._settings.replica)
            return dataclasses.replace(record, review={"not_judged": f"{type(fault).__name__}: {fault}"})
        return dataclasses.replace(record, review=found, regret=found["regret"])

    def _review(self, profile: Profile, stage: Stage, record: StageRecord) -> Review:
        recorded = recorded_stage(stage, record)
        prefill = profile.prefill_seconds(recorded.degree, recorded.prefilled_tokens)
        _check_waiting(stage, record, prefill)
        compared = review(recorded, profile, self._settings.rollout.degrees, stage.correction)
        found = cast(Review, compared.as_json())
        if self._advice is not None:
            advised = self._advice.judge(record.step, as_simulated(recorded))
            found["advised"] = dataclasses.asdict(advised) | {"gain_seconds": advised.gain_seconds}
        return found

    def _learn(self, record: StageRecord) -> None:
        if self._advice is not None:
            finished = [
                FinishedResponse(request.prompt, request.response_tokens)
                for request in record.requests
                if request.finish_reason != "aborted" and request.response_tokens
            ]
            self._advice.learn(record.step, finished)


def recorded_stage(stage: Stage, record: StageRecord) -> RecordedStage:
    """The stage as it is simulated. Raises `NotJudged`."""
    _check_requests(stage)
    made = stage.switches_made()
    first = stage.samples[0].degree if stage.samples else stage.base_degree
    if made:
        first = made[0].record.from_degree
    ended = sorted(stage.ended.items(), key=lambda item: (item[1].record.started_at, item[0]))
    rids = {engine_id: f"{number:012}" for number, (engine_id, _) in enumerate(ended)}
    old_groups = {one.engine_id: one.old_group for one in made[0].live} if made else {}
    num_groups = stage.num_ranks // first
    return RecordedStage(
        footprint=stage.num_ranks,
        degree=first,
        seconds=record.generation_seconds,
        prefilled_tokens=stage.prefilled_tokens,
        requests=tuple(
            _served(one, number, old_groups.get(engine_id, one.group), num_groups)
            for number, (engine_id, one) in enumerate(ended)
        ),
        moves=tuple(
            RecordedSwitch(
                degree=moment.record.to_degree,
                made_tokens=_made_tokens(stage, moment),
                groups={rids[one.engine_id]: one.new_group for one in moment.live if one.engine_id in rids},
            )
            for moment in made
        ),
    )


def _served(ended: Ended, number: int, group: int | None, num_groups: int) -> RecordedRequest:
    # If the group is unknown: requests are distributed over the groups in turn.
    chosen = number if group is None else group
    return RecordedRequest(
        rid=f"{number:012}",
        prompt=ended.record.prompt,
        prompt_tokens=ended.record.prompt_tokens,
        response_tokens=ended.record.response_tokens,
        group=chosen % num_groups,
    )


def _made_tokens(stage: Stage, moment: Moment) -> int:
    """Of all responses until a switch: those that were not live had ended."""
    live = {one.engine_id: stage.made_tokens(one) for one in moment.live}
    return sum(live.get(engine_id, one.record.response_tokens) for engine_id, one in stage.ended.items())


def _check_requests(stage: Stage) -> None:
    aborted = sum(request.finish_reason == "aborted" for request in stage.requests)
    if aborted:
        raise NotJudged(f"{aborted} of {len(stage.requests)} requests were aborted")
    if any(request.response_tokens < 1 for request in stage.requests):
        raise NotJudged("a response has no token")
    last_arrival = max(request.started_at for request in stage.requests)
    if any(moment.record.at < last_arrival for moment in stage.switches_made()):
        raise NotJudged("requests arrived after a switch")
    ended = sum(request.ended_at < last_arrival for request in stage.requests)
    if ended > ENDED_SHARE * len(stage.requests):
        raise NotJudged(f"requests arrived when {ended} of {len(stage.requests)} had ended")


def _check_waiting(stage: Stage, record: StageRecord, prefill_seconds: float) -> None:
    """Whether requests waited for room: after the first response had ended, and neither because of a switch
    nor for the prefills, all of which take `prefill_seconds`. Raises `NotJudged`.
    """
    first_end = min(request.ended_at for request in stage.requests)
    switches = [(switch.at, switch.at + switch.pause_seconds + WAIT_SECONDS) for switch in record.switches]
    since: float | None = None
    longest = 0.0
    ends = [*(sample.at for sample in stage.samples[1:]), record.ended_at]
    for sample, end in zip(stage.samples, ends, strict=False):
        if sample.waiting == 0:
            since = None
            continue
        since = max(sample.at, first_end) if since is None else since
        paused = sum(max(0.0, min(end, until) - max(since, at)) for at, until in switches)
        longest = max(longest, end - since - paused)
    if longest > prefill_seconds + max(WAIT_SECONDS, WAIT_SHARE * record.generation_seconds):
        raise NotJudged(f"requests waited for room for {longest:.1f} s")
