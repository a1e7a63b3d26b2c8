"""The decisions of a ledger, made again: how many are the same, and which differ. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from pydantic import ValidationError

from taper_api import JobError, Problem
from taper_api.base.violations import problems_of
from taper_api.job.rollout_spec import PredictorSpec
from taper_policy.decision.ledger import DecisionEntry
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.review.replica_history import RecordedChoice, ReplicaHistory, same_choice


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The number of repeated decisions, and of those that differ a paragraph each."""

    num_decisions: int
    num_stages: int
    differing: list[str]

    def lines(self) -> Iterator[str]:
        """Each that differs, then the counts."""
        yield from self.differing
        differing = len(self.differing)
        total = f"{self.num_decisions} decisions of {self.num_stages} stages"
        yield f"{total}: {self.num_decisions - differing} equal, {differing} different"


def replayed(histories: Sequence[ReplicaHistory], settings: Sequence[str]) -> Replayed:
    """Decide everything again, with `settings` ("name=value") in place of the run's.

    With `settings` a decision differs if it chooses another layout; without, if any of its numbers differs.
    Raises `JobError` for invalid settings, and for a ledger with a gap.
    """
    differing, count = [], 0
    for history in histories:
        enough = _changed(history.start.predictor, settings) if settings else None
        try:
            for recorded, again in history.decided_again(enough):
                count += 1
                one, other = recorded.choice, again.choice
                if one.degree != other.degree if settings else not same_choice(one, other):
                    differing.append(_difference(history.replica, recorded, again))
        except ValueError as error:
            raise JobError([Problem(path="RUN", message=f"replica {history.replica}: {error}")]) from error
    num_stages = sum(1 for history in histories for _ in history.stages())
    return Replayed(num_decisions=count, num_stages=num_stages, differing=differing)


def _difference(replica: int, recorded: RecordedChoice, again: RecordedChoice) -> str:
    about = "first layout"
    if isinstance(recorded, DecisionEntry):
        live, degree = len(recorded.snapshot.live), recorded.snapshot.degree
        about = f"decision {recorded.number}, {live} live in TP{degree}"
    lines = [f"step {recorded.step}, replica {replica}, {about}:"]
    for name, asked in (("in the run", recorded), ("now", again)):
        lines.append(f"  {name}: TP{asked.choice.degree}, because {asked.choice.reason}")
    return "\n".join(lines)


def _changed(present: PredictorSettings, settings: Iterable[str]) -> PredictorSettings:
    known = dataclasses.asdict(present)
    changed: dict[str, float] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise _bad(setting, f"must be NAME=VALUE, with one of {', '.join(known)}")
        try:
            changed[name] = float(text)
        except ValueError:
            raise _bad(setting, f"{text!r} is not a number") from None
        try:
            PredictorSpec.model_validate({name: changed[name]})
        except ValidationError as error:
            problem = problems_of(error, PredictorSpec)[0]
            raise _bad(setting, f"{problem.message}; {problem.remedy}") from None
    return dataclasses.replace(present, **changed)


def _bad(setting: str, message: str) -> JobError:
    return JobError([Problem(path=f"--set {setting}", message=message)])
