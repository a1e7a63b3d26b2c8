"""The events of a run: what replicas, trainer, rewards, metrics hosts and session report about it.

They travel between processes as these values. JSON is made of them only in the files of a run, by
`dataclasses.asdict`; `stage_from_json` reads a trace. Times are seconds since the Unix epoch (`at`, `*_at`)
or durations (`*_seconds`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from taper_rollout.switching.figures import SwitchFigures


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One finished response. `prompt` is a digest of the prompt's token ids; `sample` counts its siblings."""

    request_id: str
    prompt: str
    sample: int
    prompt_tokens: int
    response_tokens: int
    started_at: float
    ended_at: float
    finish_reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchSample:
    """The running batch of a replica at one moment: requests of each group, and the layout's degree."""

    at: float
    running: tuple[int, ...]
    waiting: int
    degree: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchTransition:
    """A state of the switch protocol that the replica entered, and by which event (`switching.states`)."""

    event: str
    state: str
    at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRecord:
    """One switch and its outcome.

    `outcome` is `committed`; `refused` (a rank refused, or the ranks' plans differed: nothing had
    changed); `aborted` (a rank did not arrive in time, or failed); or `advised` (not carried out).
    `cause` is the event that refused or aborted it. `transitions` are the states that the replica
    went through, in order.

    `pause_seconds` is the wall time between the last decode step before the switch
    and the first after it, re-admission included. `parts_seconds` are the slowest
    rank's: `offer`, `quiesce` and `agree` are moments, counted from when it took up the
    switch; `drain`, `requests` and `kv` are durations (`pause_phases` makes phases of them).
    `gain_seconds` is `staying_seconds` (what the rest of the stage would have taken
    in the old layout, by the true lengths and the profile, corrected by measured steps)
    minus what it took; None without a profile.

    `kv` is what happened to the KV cache: `migrate`, `recompute` or `mixed`, with the numbers of
    requests of each; where no request had KV, or no switch was made, what the job asks for.

    `question` is the number, in its stage's ledger, of the predictor's decision behind it, with the
    gain and the pause that were predicted; None of other rules.
    """

    epoch: int
    at: float
    from_degree: int
    to_degree: int
    kv: str
    outcome: str
    reason: str
    live_requests: int = 0
    live_tokens: int = 0
    migrated_requests: int = 0
    recomputed_requests: int = 0
    moved_bytes: int = 0
    prefilled_tokens: int = 0
    pause_seconds: float = 0.0
    parts_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    cause: str | None = None
    transitions: list[SwitchTransition] = dataclasses.field(default_factory=list)
    staying_seconds: float | None = None
    actual_seconds: float | None = None
    gain_seconds: float | None = None
    question: int | None = None
    predicted_gain_seconds: float | None = None
    predicted_pause_seconds: float | None = None

    def with_figures(self, figures: SwitchFigures) -> SwitchRecord:
        """This record with what the switch did."""
        return dataclasses.replace(
            self,
            live_requests=figures.live_requests,
            live_tokens=figures.live_tokens,
            migrated_requests=figures.migrated_requests,
            recomputed_requests=figures.recomputed_requests,
            moved_bytes=figures.moved_bytes,
            prefilled_tokens=figures.prefilled_tokens,
            pause_seconds=figures.pause_seconds,
            parts_seconds=dict(figures.parts_seconds),
        )


class Review(TypedDict, total=False):
    """A stage beside other plans (`taper_policy.review.review.StageReview.as_json`), simulated.

    not_judged: why that was not possible; there is nothing else then
    advised: what following the predictor would have taken (`advice.AdvisedStage`); with `mode: advise` only
    """

    not_judged: str
    actual_seconds: float
    executed_seconds: float
    prefill_seconds: float
    static_seconds: dict[str, float]
    best_seconds: float
    best_plan: str
    regret: float
    gain_over_best_static: float
    model_error: float
    advised: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One finished stage of one replica: one generation phase of a training step.

    `regret` is the review's. Both are None of a replica without a profile.
    """

    replica: int
    step: int
    num_ranks: int
    started_at: float
    ended_at: float
    idle_rank_seconds: float
    requests: tuple[RequestRecord, ...]
    batch: tuple[BatchSample, ...]
    switches: tuple[SwitchRecord, ...]
    regret: float | None = None
    review: Review | None = None

    @property
    def generation_seconds(self) -> float:
        return self.ended_at - self.started_at

    def committed(self) -> list[SwitchRecord]:
        """The switches that took effect."""
        return [switch for switch in self.switches if switch.outcome == "committed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """A progress event of a stage under way; how often: `progress_throttle`."""

    replica: int
    step: int
    running: int
    finished: int
    degree: int
    num_ranks: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchDone:
    """A switch, as soon as its outcome is known and its requests decode again.

    The record of its stage has it again, with its gain; a switch between stages is in no stage's record.
    """

    replica: int
    step: int
    switch: SwitchRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """An entry of a replica's ledger, in the JSON form of `taper_policy.decision.ledger`."""

    replica: int
    at: float
    entry: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished training step, with VeRL's metrics."""

    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    """Seconds of a decode step of one busy group, with a batch of `batch`."""

    degree: int
    batch: int
    seconds: float
    num_samples: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The decode steps that a replica measured at its start."""

    replica: int
    step_seconds: tuple[StepSeconds, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCheckpoint:
    """A checkpoint that cannot be resumed from; "<directory>, which <reason>"."""

    directory: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The checkpoint that the run continues from, and newer ones that it passed over.

    directory: None, with `step` 0, where there is no complete checkpoint
    """

    step: int
    directory: str | None
    passed_over: tuple[SkippedCheckpoint, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricsServed:
    """Where metrics are served. `node`: the node's address, None in a run on one node."""

    url: str
    node: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the run is waiting for, as a line of text."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost:
    """How many events were dropped because the inbox was full."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error that ends the run, though VeRL would continue."""

    message: str


Event = (
    StageRecord
    | StageProgress
    | SwitchDone
    | LedgerEntry
    | Step
    | Calibration
    | Resumed
    | MetricsServed
    | Waiting
    | EventsLost
    | Failure
)

_STAGE = TypeAdapter(StageRecord)


def stage_from_json(text: bytes) -> StageRecord:
    """The stage in a trace. Raises `ValueError` that says what is wrong with it."""
    return _STAGE.validate_json(text)
