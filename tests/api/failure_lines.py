"""Last lines of runs that failed, in `last_lines.txt`: `taper run` says them, the operator reads them.

The tests of both sides use that file.
"""

from __future__ import annotations

from pathlib import Path

from taper_api.status.termination_message import TerminationMessage

LINES: dict[str, TerminationMessage] = dict(
    zip(
        Path(__file__).with_name("last_lines.txt").read_text(encoding="ascii").splitlines(),
        [
            TerminationMessage(reason="TrainingFailed", message="the reward a.py:f failed: KeyError: 'x'"),
            TerminationMessage(
                reason="InvalidJob",
                message="3 is not a power of two",
                field="spec.rollout.degrees[1]",
                remedy="use 1, 2, 4 or 8",
            ),
            TerminationMessage(reason="InternalError", message="two\nlines\u2028and \xe9"),
        ],
        strict=True,
    )
)
