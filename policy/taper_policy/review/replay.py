"""Recorded decisions, made again: by the same rules to see that they are the same, or by others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.ledger import AdvisorEntry, CorrectionEntry, DecisionEntry, FirstLayoutEntry

RecordedChoice = FirstLayoutEntry | DecisionEntry


def replay(
    entries: Iterable[AdvisorEntry], advisor: Advisor, *, footprint: int
) -> Iterator[tuple[RecordedChoice, RecordedChoice]]:
    """Each opening and question of one replica's ledger, as recorded and as `advisor`, a new one, answers.

    The advisor hears what ended between the questions in the recorded order. With other rules a
    choice is what they would have chosen there: what came after it is as recorded. Raises
    `ValueError` where a stage has no end although another follows.
    """
    step: int | None = None
    for entry in entries:
        if step is None:
            advisor.start_stage(entry.step)
        elif step != entry.step:
            raise ValueError(f"step {entry.step} follows step {step}, whose end is missing")
        if isinstance(entry, CorrectionEntry):
            step = entry.step
            advisor.correct(entry.correction)
            continue
        if isinstance(entry, FirstLayoutEntry):
            step = entry.step
            again = advisor.first_layout(entry.expected, footprint=footprint)
            yield entry, replace(entry, choice=again)
            continue
        advisor.add_finished(entry.finished)
        if isinstance(entry, DecisionEntry):
            step = entry.step
            yield entry, advisor.decide(entry.snapshot, entry.snapshot.at_seconds + entry.age_seconds)
        else:
            step = None
            advisor.end_stage()
