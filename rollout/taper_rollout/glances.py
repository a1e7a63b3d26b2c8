"""When a running batch is worth telling of again.

Each glance costs some milliseconds of a core, over five processes (`benchmarks/overhead.py`): a batch
that stays as it is is not told of, one that begins or tapers off several times a second.
"""

from __future__ import annotations

from taper_rollout.events import BatchSample

LEAST_SECONDS, MOST_SECONDS = 0.25, 2.0
CHANGED_SHARE = 0.1


class Glances:
    """Remembers what was told last, and when."""

    def __init__(self) -> None:
        self._told: BatchSample | None = None

    def is_due(self, sample: BatchSample) -> bool:
        """Whether to tell of `sample` now; if so, it is what was told last from now on."""
        told = self._told
        if told is not None:
            if (told.running, told.waiting, told.degree) == (sample.running, sample.waiting, sample.degree):
                return False
            seconds = sample.at - told.at
            before, running = sum(told.running), sum(sample.running)
            has_changed = sample.degree != told.degree or abs(running - before) > CHANGED_SHARE * before
            # A clock that was set back must not silence it.
            if 0.0 <= seconds < (LEAST_SECONDS if has_changed else MOST_SECONDS):
                return False
        self._told = sample
        return True
