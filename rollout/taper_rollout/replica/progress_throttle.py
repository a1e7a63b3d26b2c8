"""When a running batch is worth telling of again.

Each glance costs some milliseconds of a core, over five processes (`benchmarks/overhead.py`): a batch
that stays as it is is not told of, one that begins or tapers off several times a second.
"""

from __future__ import annotations

from taper_rollout.replica.events import StageProgress

LEAST_SECONDS, MOST_SECONDS = 0.25, 2.0
CHANGED_SHARE = 0.1


class Glances:
    """Of one stage: remembers what was told last, and when."""

    def __init__(self) -> None:
        self._told: StageProgress | None = None
        self._told_at = 0.0

    def is_due(self, glance: StageProgress, at: float) -> bool:
        """Whether to tell of `glance` at the time `at`; if so, it is what was told last from now on."""
        told = self._told
        if glance == told:
            return False
        if told is not None:
            seconds = at - self._told_at
            share = abs(glance.running - told.running) / max(1, told.running)
            has_changed = glance.degree != told.degree or share > CHANGED_SHARE
            # A clock that was set back must not silence it.
            if 0.0 <= seconds < (LEAST_SECONDS if has_changed else MOST_SECONDS):
                return False
        self._told, self._told_at = glance, at
        return True
