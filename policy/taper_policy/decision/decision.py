"""The answer of a policy: switch to another layout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Switch to the uniform layout of `degree`; `reason` is for the ledger and the user.

    The predictor sets the other fields, switch rules leave them None. `question`: the number of its ledger
    entry within the stage. `gain_seconds`: expected gain over staying to the end of the stage.
    `pause_seconds`: expected pause of the switch.
    """

    degree: int
    reason: str
    question: int | None = None
    gain_seconds: float | None = None
    pause_seconds: float | None = None
