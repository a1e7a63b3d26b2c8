"""Rate-limits the progress events of a running batch.

Each event costs some milliseconds of a core, over five processes (`benchmarks/overhead.py`): a batch
that does not change is not reported again, one that begins or tapers off several times a second.
"""

from __future__ import annotations

from taper_rollout.events import StageProgress

LEAST_SECONDS, MOST_SECONDS = 0.25, 2.0
CHANGED_SHARE = 0.1


class ProgressThrottle:
    """Of one stage: remembers what was reported last, and when."""

    def __init__(self) -> None:
        self._last: StageProgress | None = None
        self._last_at = 0.0

    def is_due(self, progress: StageProgress, at: float) -> bool:
        """Whether to report `progress` at the time `at`; if so, it is remembered as reported."""
        last = self._last
        if progress == last:
            return False
        if last is not None:
            seconds = at - self._last_at
            share = abs(progress.running - last.running) / max(1, last.running)
            has_changed = progress.degree != last.degree or share > CHANGED_SHARE
            # A clock that was set back must not silence it.
            if 0.0 <= seconds < (LEAST_SECONDS if has_changed else MOST_SECONDS):
                return False
        self._last, self._last_at = progress, at
        return True
