"""The decisions of a replica as they are recorded: each with everything that it followed from.

A ledger is a sequence of entries in the order of time. A replica's history begins with a `StartEntry`.
Then follow, stage by stage: the correction of its profile (if it changed), the first layout, the
decisions, the outcomes of the switches, the review of the stage, and its end. `review.replica_history`
decides everything again.

The kinds in the JSON form (`start`, `correction`, `opening`, `question`, ...) are those of the first
ledgers, so that these can still be read.

Invariants (asserted by `tests/policy/review/test_replica_history.py`):
- an entry read back from JSON equals the one written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple, get_type_hints

from taper_policy.decision.correction import Correction
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionEntry:
    """The correction of the profile's steps from this stage on."""

    step: int
    correction: Correction


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLayoutEntry:
    """The choice of a stage's first layout, from what was expected of the stage."""

    step: int
    expected: ExpectedStage
    choice: Choice


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEndEntry:
    """The end of a stage: the responses that ended after its last decision."""

    step: int
    finished: tuple[FinishedResponse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOutcomeEntry:
    """The outcome of a switch, made or only advised: the fields of its record in the stage."""

    step: int
    switch: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEntry:
    """The comparison of the stage with other plans, from its record."""

    step: int
    review: Mapping[str, Any]


AdvisorEntry = CorrectionEntry | FirstLayoutEntry | DecisionEntry | StageEndEntry
LedgerRecord = StartEntry | AdvisorEntry | SwitchOutcomeEntry | ReviewEntry


_KINDS: Final[Mapping[str, type[LedgerRecord]]] = {
    "start": StartEntry,
    "correction": CorrectionEntry,
    "opening": FirstLayoutEntry,
    "question": DecisionEntry,
    "stage end": StageEndEntry,
    "outcome": SwitchOutcomeEntry,
    "review": ReviewEntry,
}
_NAMES: Final = {"correction": "factors"}
"""The names in JSON of fields that have another one here."""


def entry_as_json(entry: LedgerRecord) -> dict[str, Any]:
    """JSON-ready; live requests as rows `[rid, prompt, group, prompt tokens, decoded tokens]`."""
    kind = next(kind for kind, one in _KINDS.items() if isinstance(entry, one))
    return {"entry": kind} | {_NAMES.get(name, name): value for name, value in _fields_as_json(entry).items()}


def entry_from_json(values: Mapping[str, Any]) -> LedgerRecord:
    """The entry that `entry_as_json` wrote. Raises `ValueError` that says what is wrong with it."""
    try:
        kind = _KINDS.get(values["entry"])
        if kind is None:
            raise ValueError(f"entry: {values['entry']!r} is unknown")
        types = get_type_hints(kind)
        return kind(**{name: _READERS[one](values[_NAMES.get(name, name)]) for name, one in types.items()})
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is not a ledger entry: {error}") from None


_LIVE_REQUEST_FIELDS: Final = ("rid", "prompt", "group", "prompt_tokens", "decoded_tokens")
# Of a snapshot: what its live requests give, which are written as rows.
_LIVE_FIELDS: Final = ("running", "longest_decoded_tokens", "live")


def _as_json(value: Any) -> Any:
    if isinstance(value, Profile):
        return profile_as_json(value)
    if isinstance(value, Correction):
        return value.factors
    if isinstance(value, Snapshot):
        row = attrgetter(*_LIVE_REQUEST_FIELDS)
        kept = {name: getattr(value, name) for name in Snapshot.__slots__ if name not in _LIVE_FIELDS}
        return kept | {"live": [list(row(request)) for request in value.live]}
    if is_dataclass(value):
        return _fields_as_json(value)
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _fields_as_json(value: Any) -> dict[str, Any]:
    return {field.name: _as_json(getattr(value, field.name)) for field in fields(value)}


def _snapshot(values: Mapping[str, Any]) -> Snapshot:
    rows = values["live"]
    live = tuple(LiveRequest(**dict(zip(_LIVE_REQUEST_FIELDS, row, strict=True))) for row in rows)
    others = {name: value for name, value in values.items() if name != "live"}
    return Snapshot(running=(), **others).with_live(live)


def _choice(values: Mapping[str, Any]) -> Choice:
    return Choice(**{**values, "options": tuple(Option(**option) for option in values["options"])})


_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    int: int,
    float: float,
    str: str,
    tuple[int, ...]: lambda values: tuple(int(value) for value in values),
    tuple[FinishedResponse, ...]: lambda rows: tuple(
        FinishedResponse(str(one), int(two)) for one, two in rows
    ),
    Mapping[str, Any]: lambda values: dict(values.items()),
    PredictorSettings: lambda values: PredictorSettings(**values),
    ExpectedStage: lambda values: ExpectedStage(**values),
    Profile: profile_from_json,
    Correction: Correction.from_json,
    Snapshot: _snapshot,
    Choice: _choice,
}
"""By the type of an entry's field, how it is read."""
