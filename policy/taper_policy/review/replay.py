"""Decides recorded decisions again: with the same settings, to verify them, or with others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.ledger import (
    AdvisorEntry,
    CorrectionEntry,
    DecisionEntry,
    FirstLayoutEntry,
    StageEndEntry,
)

RecordedChoice = FirstLayoutEntry | DecisionEntry


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
