"""A switch's pause, split into phases that follow each other. Pure.

A rank reports marks, which are seconds since it took up the switch (`offer`, `quiesce`,
`agree`), and durations (`drain`, `requests`, `kv`); what is left of the pause is the
`rest`: the wait before the rank took up the switch, the commit, the other ranks,
re-admission and the first step in the new layout. Parts with other names count to the rest.

Invariants (asserted by `tests/rollout/switching/test_pause_phases.py`):
- no phase is negative, and every phase is there;
- the phases add up to the pause, if the parts fit into it.
"""

from __future__ import annotations

from collections.abc import Mapping

MARKS = ("offer", "quiesce", "agree")
DURATIONS = ("drain", "requests", "kv")
REST = "rest"
PHASES = (*MARKS, *DURATIONS, REST)


def pause_phases(parts_seconds: Mapping[str, float], pause_seconds: float) -> dict[str, float]:
    """Seconds of each of `PHASES`, from a `SwitchRecord`'s `parts_seconds` and `pause_seconds`."""
    phases = {}
    reached = 0.0
    for mark in MARKS:
        until = max(reached, parts_seconds.get(mark, reached))
        phases[mark], reached = until - reached, until
    for name in DURATIONS:
        phases[name] = max(0.0, parts_seconds.get(name, 0.0))
    phases[REST] = max(0.0, pause_seconds - sum(phases.values()))
    return phases
