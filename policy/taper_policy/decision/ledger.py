"""The decisions of a replica as they are recorded: each with everything that it followed from.

A ledger is a sequence of entries in the order of time. A replica's history begins with a `StartEntry`.
Then follow, stage by stage: the correction of its profile (if it changed), the first layout, the
decisions, the outcomes of the switches, the review of the stage, and its end. `review.replay` decides
everything again.

The kinds in the JSON form (`start`, `correction`, `opening`, `question`, ...) are those of the first
ledgers, so that these can still be read.

Invariants (asserted by `tests/policy/review/test_replica_history.py`):
- an entry read back from JSON equals the one written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

from taper_policy.decision.correction import Correction
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.pricing import Choice, Option, PredictorSettings
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.file import profile_as_json, profile_from_json
from taper_policy.profile.profile import Profile


class FinishedResponse(NamedTuple):
    """A response that has ended: the digest that its siblings share, and its tokens."""

    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEntry:
    """A replica starts to predict, without any lengths yet.

    degrees: of the layouts that may be taken, base first
    mode: `advise` or `enforce`
    max_tokens: of the longest response
    """

    footprint: int
    degrees: tuple[int, ...]
    mode: str
    max_tokens: int
    predictor: PredictorSettings
    profile: Profile

    def rules(self) -> DecisionSettings:
        """The settings of its decisions."""
        return DecisionSettings(degrees=self.degrees, predictor=self.predictor)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "entry": "start",
            "footprint": self.footprint,
            "degrees": list(self.degrees),
            "mode": self.mode,
            "max_tokens": self.max_tokens,
            "predictor": asdict(self.predictor),
            "profile": profile_as_json(self.profile),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionEntry:
    """The correction of the profile's steps from this stage on."""

    step: int
    correction: Correction

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"entry": "correction", "step": self.step, "factors": self.correction.as_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLayoutEntry:
    """The choice of a stage's first layout, from what was expected of the stage."""

    step: int
    expected: ExpectedStage
    choice: Choice

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "entry": "opening",
            "step": self.step,
            "expected": asdict(self.expected),
            "choice": _choice_as_json(self.choice),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionEntry:
    """One decision.

    step, number: the stage's global step; 1-based index within the stage
    age_seconds: age of the snapshot at the time of the decision
    finished: responses that ended since the previous decision, or the start of the stage
    """

    step: int
    number: int
    age_seconds: float
    finished: tuple[FinishedResponse, ...]
    snapshot: Snapshot
    choice: Choice

    @property
    def is_switch(self) -> bool:
        """Whether another layout than the present one was chosen."""
        return self.choice.degree != self.snapshot.degree

    def option(self, degree: int) -> Option | None:
        """The price of a layout; None if nothing could be priced."""
        return next((option for option in self.choice.options if option.degree == degree), None)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; live requests as rows `[rid, prompt, group, prompt tokens, decoded tokens]`."""
        return {
            "entry": "question",
            "step": self.step,
            "number": self.number,
            "age_seconds": self.age_seconds,
            "finished": [list(response) for response in self.finished],
            "snapshot": _snapshot_as_json(self.snapshot),
            "choice": _choice_as_json(self.choice),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEndEntry:
    """The end of a stage: the responses that ended after its last decision."""

    step: int
    finished: tuple[FinishedResponse, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "entry": "stage end",
            "step": self.step,
            "finished": [list(response) for response in self.finished],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOutcomeEntry:
    """The outcome of a switch, made or only advised: the fields of its record in the stage."""

    step: int
    switch: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"entry": "outcome", "step": self.step, "switch": dict(self.switch)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEntry:
    """The comparison of the stage with other plans, from its record."""

    step: int
    review: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"entry": "review", "step": self.step, "review": dict(self.review)}


AdvisorEntry = CorrectionEntry | FirstLayoutEntry | DecisionEntry | StageEndEntry
LedgerRecord = StartEntry | AdvisorEntry | SwitchOutcomeEntry | ReviewEntry


def entry_from_json(values: Mapping[str, Any]) -> LedgerRecord:
    """The entry that `as_json` wrote. Raises `ValueError` that says what is wrong with it."""
    try:
        if values["entry"] not in _READERS:
            raise ValueError(f"entry: {values['entry']!r} is unknown")
        return _READERS[values["entry"]](values)
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is not a ledger entry: {error}") from None


def _start(values: Mapping[str, Any]) -> StartEntry:
    return StartEntry(
        footprint=int(values["footprint"]),
        degrees=tuple(int(degree) for degree in values["degrees"]),
        mode=str(values["mode"]),
        max_tokens=int(values["max_tokens"]),
        predictor=PredictorSettings(**values["predictor"]),
        profile=profile_from_json(values["profile"]),
    )


def _corrected(values: Mapping[str, Any]) -> CorrectionEntry:
    return CorrectionEntry(step=int(values["step"]), correction=Correction.from_json(values["factors"]))


def _opening(values: Mapping[str, Any]) -> FirstLayoutEntry:
    return FirstLayoutEntry(
        step=int(values["step"]),
        expected=ExpectedStage(**values["expected"]),
        choice=_choice(values["choice"]),
    )


def _question(values: Mapping[str, Any]) -> DecisionEntry:
    return DecisionEntry(
        step=int(values["step"]),
        number=int(values["number"]),
        age_seconds=float(values["age_seconds"]),
        finished=_finished(values),
        snapshot=_snapshot(values["snapshot"]),
        choice=_choice(values["choice"]),
    )


def _stage_end(values: Mapping[str, Any]) -> StageEndEntry:
    return StageEndEntry(step=int(values["step"]), finished=_finished(values))


def _outcome(values: Mapping[str, Any]) -> SwitchOutcomeEntry:
    return SwitchOutcomeEntry(step=int(values["step"]), switch=dict(values["switch"].items()))


def _judgement(values: Mapping[str, Any]) -> ReviewEntry:
    return ReviewEntry(step=int(values["step"]), review=dict(values["review"].items()))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], LedgerRecord]] = {
    "start": _start,
    "correction": _corrected,
    "opening": _opening,
    "question": _question,
    "stage end": _stage_end,
    "outcome": _outcome,
    "review": _judgement,
}


def _finished(values: Mapping[str, Any]) -> tuple[FinishedResponse, ...]:
    return tuple(FinishedResponse(str(prompt), int(tokens)) for prompt, tokens in values["finished"])


_LIVE_REQUEST_FIELDS: Final = ("rid", "prompt", "group", "prompt_tokens", "decoded_tokens")
# The other fields of a snapshot follow from its live requests.
_SNAPSHOT_FIELDS: Final = (
    "at_seconds",
    "footprint",
    "degree",
    "waiting",
    "arrivals_settled",
    "switches_done_in_stage",
    "boundary_seconds",
)


def _snapshot_as_json(snapshot: Snapshot) -> dict[str, Any]:
    row = attrgetter(*_LIVE_REQUEST_FIELDS)
    fields = {name: getattr(snapshot, name) for name in _SNAPSHOT_FIELDS}
    return fields | {"live": [list(row(request)) for request in snapshot.live]}


def _snapshot(values: Mapping[str, Any]) -> Snapshot:
    rows = values["live"]
    live = tuple(LiveRequest(**dict(zip(_LIVE_REQUEST_FIELDS, row, strict=True))) for row in rows)
    fields = {name: value for name, value in values.items() if name != "live"}
    return Snapshot(running=(), **fields).with_live(live)


def _choice_as_json(choice: Choice) -> dict[str, Any]:
    return asdict(choice) | {"options": [asdict(option) for option in choice.options]}


def _choice(values: Mapping[str, Any]) -> Choice:
    return Choice(**{**values, "options": tuple(Option(**option) for option in values["options"])})
