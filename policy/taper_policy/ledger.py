"""The decisions of a replica as they are kept: every question with all that its answer followed from.

A ledger is a sequence of entries in the order of time; `replay.replay` asks its questions again.

Invariants (asserted by `tests/policy/test_advisor.py`):
- an entry read back from JSON equals the one written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from taper_policy.decision import Choice, Option
from taper_policy.forecast import LiveRequest
from taper_policy.predictor import ReplicaSnapshot


class Finished(NamedTuple):
    """A response that has ended: the digest that its siblings share, and its tokens."""

    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One decision.

    step, number: the stage's global step, and the how-manieth question of the stage it is, from 1
    age_seconds: of the snapshot when it was judged
    finished: responses that ended since the question (or stage) before
    """

    step: int
    number: int
    age_seconds: float
    finished: tuple[Finished, ...]
    snapshot: ReplicaSnapshot
    choice: Choice

    @property
    def is_switch(self) -> bool:
        """Whether another layout was chosen than the one at hand."""
        return self.choice.degree != self.snapshot.degree

    def option(self, degree: int) -> Option | None:
        """What was weighed of a layout; None where nothing could be priced."""
        return next((option for option in self.choice.options if option.degree == degree), None)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; live requests as rows `[rid, prompt, group, prompt tokens, decoded tokens]`."""
        snapshot = asdict(self.snapshot)
        snapshot["live"] = [
            [one.rid, one.prompt, one.group, one.prompt_tokens, one.decoded_tokens]
            for one in self.snapshot.live
        ]
        return {
            "entry": "question",
            "step": self.step,
            "number": self.number,
            "age_seconds": self.age_seconds,
            "finished": [list(response) for response in self.finished],
            "snapshot": snapshot,
            "choice": asdict(self.choice) | {"options": [asdict(option) for option in self.choice.options]},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnd:
    """The end of a stage: the responses that ended after its last question."""

    step: int
    finished: tuple[Finished, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "entry": "stage end",
            "step": self.step,
            "finished": [list(response) for response in self.finished],
        }


Entry = Question | StageEnd


def entry_from_json(values: Mapping[str, Any]) -> Entry:
    """The entry that `as_json` wrote. Raises `ValueError` that says what is wrong with it."""
    try:
        finished = tuple(Finished(str(prompt), int(tokens)) for prompt, tokens in values["finished"])
        if values["entry"] == "stage end":
            return StageEnd(step=int(values["step"]), finished=finished)
        if values["entry"] != "question":
            raise ValueError(f"entry: {values['entry']!r} is unknown")
        return Question(
            step=int(values["step"]),
            number=int(values["number"]),
            age_seconds=float(values["age_seconds"]),
            finished=finished,
            snapshot=_snapshot(values["snapshot"]),
            choice=_choice(values["choice"]),
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is no ledger entry: {error}") from None


def _snapshot(values: Mapping[str, Any]) -> ReplicaSnapshot:
    names = ("rid", "prompt", "group", "prompt_tokens", "decoded_tokens")
    live = tuple(LiveRequest(**dict(zip(names, row, strict=True))) for row in values["live"])
    return ReplicaSnapshot(**{**values, "live": live})


def _choice(values: Mapping[str, Any]) -> Choice:
    return Choice(**{**values, "options": tuple(Option(**option) for option in values["options"])})
