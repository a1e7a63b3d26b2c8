"""A ledger split into replica histories: what one replica decided from its start to its end, by stage.

A replica that is started again (a run that goes on from a checkpoint, an engine that was lost)
has lost what it had learned: its decisions can only be repeated from its own start. They are decided again
with the same settings, to verify them, or with others.

Invariants (asserted by `tests/policy/review/test_replica_history.py`):
- entries of several replicas may be interleaved; each history has only its own;
- an entry before its replica's first start is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.decision.advisor import Advisor
from taper_policy.decision.correction import Correction
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.ledger import (
    AdvisorEntry,
    CorrectionEntry,
    DecisionEntry,
    FirstLayoutEntry,
    LedgerRecord,
    ReviewEntry,
    StageEndEntry,
    StartEntry,
    SwitchOutcomeEntry,
)
from taper_policy.decision.pricing import Choice, PredictorSettings

# Other builds of numpy add in another order.
RELATIVE_TOLERANCE = 1e-9

HistoryEntry = AdvisorEntry | SwitchOutcomeEntry | ReviewEntry
RecordedChoice = FirstLayoutEntry | DecisionEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHistory:
    """What a ledger holds of one stage.

    outcomes: by the number of their question
    correction: of the profile's steps, as it had been learned until then
    """

    step: int
    correction: Correction
    first_layout: FirstLayoutEntry | None
    decisions: tuple[DecisionEntry, ...]
    outcomes: Mapping[int, SwitchOutcomeEntry]
    review: ReviewEntry | None
    has_ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaHistory:
    """A replica from one start to the next, or to the end of the ledger; entries in the order of time."""

    replica: int
    start: StartEntry
    entries: list[HistoryEntry] = field(default_factory=list)

    def stages(self) -> Iterator[StageHistory]:
        """Its stages, in order. A stage ends with its `StageEndEntry`; two may be of one step."""
        correction = Correction()
        for (_, step), entries in groupby(_numbered(self.entries), key=lambda pair: pair[0]):
            found = [entry for _, entry in entries]
            for entry in found:
                if isinstance(entry, CorrectionEntry):
                    correction = entry.correction
            yield StageHistory(
                step=step,
                correction=correction,
                first_layout=next((entry for entry in found if isinstance(entry, FirstLayoutEntry)), None),
                decisions=tuple(entry for entry in found if isinstance(entry, DecisionEntry)),
                outcomes={
                    entry.switch["question"]: entry
                    for entry in found
                    if isinstance(entry, SwitchOutcomeEntry) and entry.switch.get("question") is not None
                },
                review=next((entry for entry in found if isinstance(entry, ReviewEntry)), None),
                has_ended=any(isinstance(entry, StageEndEntry) for entry in found),
            )

    def decided_again(
        self, enough: PredictorSettings | None = None
    ) -> Iterator[tuple[RecordedChoice, RecordedChoice]]:
        """Each opening and question as recorded and as it is answered now; with `enough`, by other settings.

        Raises `ValueError` where a stage has no end although another follows.
        """
        rules = DecisionSettings(degrees=self.start.degrees, predictor=enough or self.start.predictor)
        advisor = Advisor(self.start.profile, rules, max_tokens=self.start.max_tokens)
        return replay((entry for entry in self.entries if isinstance(entry, AdvisorEntry)), advisor)


def replica_histories(entries: Iterable[tuple[int, LedgerRecord]]) -> list[ReplicaHistory]:
    """The histories in a ledger of pairs (replica, entry), in the order of their starts.

    Raises `ValueError` for an entry of a replica that has not begun.
    """
    found: list[ReplicaHistory] = []
    present: dict[int, ReplicaHistory] = {}
    for replica, entry in entries:
        if isinstance(entry, StartEntry):
            present[replica] = ReplicaHistory(replica=replica, start=entry)
            found.append(present[replica])
        elif replica not in present:
            raise ValueError(f"replica {replica}: its start is missing")
        else:
            present[replica].entries.append(entry)
    return found


def replay(
    entries: Iterable[AdvisorEntry], advisor: Advisor
) -> Iterator[tuple[RecordedChoice, RecordedChoice]]:
    """Each first layout and decision of one history, as recorded and as the new `advisor` decides.

    The advisor gets the responses that ended between decisions in the recorded order. With other settings a
    choice is what they would have chosen at that moment; everything after it is as recorded. Raises
    `ValueError` where a stage has no end although another follows.
    """
    step: int | None = None
    for entry in entries:
        if step is None:
            advisor.start_stage(entry.step)
        elif step != entry.step:
            raise ValueError(f"step {entry.step} follows step {step}, whose end is missing")
        step = None if isinstance(entry, StageEndEntry) else entry.step
        if isinstance(entry, CorrectionEntry):
            advisor.correct(entry.correction)
        elif isinstance(entry, FirstLayoutEntry):
            yield entry, replace(entry, choice=advisor.first_layout(entry.expected))
        elif isinstance(entry, DecisionEntry):
            advisor.add_finished(entry.finished)
            yield entry, advisor.decide(entry.snapshot, entry.snapshot.at_seconds + entry.age_seconds)
        else:
            advisor.add_finished(entry.finished)
            advisor.end_stage()


def same_choice(one: Choice, other: Choice) -> bool:
    """Whether two choices are equal but for the last digits of their numbers."""
    mine, others = _numbers(one), _numbers(other)
    return (
        one.degree == other.degree
        and mine.shape == others.shape
        and np.allclose(mine, others, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)
    )


def _numbers(choice: Choice) -> FloatArray:
    options = [number or 0 for option in choice.options for number in astuple(option)]
    return np.array([choice.gain_seconds, choice.gain_share, *options])


def _numbered(
    entries: Sequence[HistoryEntry],
) -> Iterator[tuple[tuple[int, int], HistoryEntry]]:
    """Each entry with how many stages have ended before it, and its step."""
    ended = 0
    for entry in entries:
        yield (ended, entry.step), entry
        ended += isinstance(entry, StageEndEntry)
