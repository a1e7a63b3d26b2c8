"""The last line of a run that failed, `TAPER_ERROR {json}`: `taper run` says it, the operator reads it.

Ray hands the end of a driver's log on with a failure: ten lines, 20,000 characters. So it is one line,
and short, whatever it is made from; and what it is made from may come from anywhere.

Invariants (asserted by `tests/api/test_termination_message.py`):
- what is said is heard, cut to its bounds;
- a line has no line breaks, at most MAX_LINE_CHARACTERS, and ASCII only;
- no log raises.
"""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import ConfigDict, Field, ValidationError

from taper_api.base.block import Block

MARK: Final = "TAPER_ERROR "
MAX_LINE_CHARACTERS: Final = 8_000
MAX_MESSAGE_CHARACTERS: Final = 2_000
_MAX_FIELD_CHARACTERS = 256
_MAX_REMEDY_CHARACTERS = 500
# A job that will never run, however often it is tried.
INVALID_JOB: Final = "InvalidJob"


class TerminationMessage(Block):
    """Why a run failed. An older reader leaves out what a newer writer adds."""

    model_config = ConfigDict(extra="ignore")

    reason: Annotated[str, Field(max_length=128)] = Field(default="", description="Why, in one word.")
    message: Annotated[str, Field(min_length=1)] = Field(description="Why, in words: the first real cause.")
    field: str | None = Field(default=None, description="Path of the job's field that is wrong, if one is.")
    remedy: str | None = Field(default=None, description="What would be right.")

    @property
    def text(self) -> str:
        """All of it, for people."""
        field = f"{self.field}: " if self.field else ""
        return f"{field}{self.message}{f'; {self.remedy}' if self.remedy else ''}"


def line_of(words: TerminationMessage) -> str:
    """The line, without its end."""
    content = {
        "reason": words.reason,
        "message": words.message[:MAX_MESSAGE_CHARACTERS],
        "field": (words.field or "")[:_MAX_FIELD_CHARACTERS],
        "remedy": (words.remedy or "")[:_MAX_REMEDY_CHARACTERS],
    }
    line = _line(content)
    while len(line) > MAX_LINE_CHARACTERS:
        # Escapes take up to six times the room: all the longer texts go by half, never to nothing.
        content = {
            name: text if name == "reason" or len(text) < 100 else text[: len(text) // 2]
            for name, text in content.items()
        }
        line = _line(content)
    return line


def _line(content: dict[str, str]) -> str:
    # Without `ensure_ascii=False`: some Unicode characters end a line to some readers.
    return MARK + json.dumps({name: text for name, text in content.items() if text})


def termination_message_in(log: str) -> TerminationMessage | None:
    """What a log says last of why the run failed; None if it says nothing."""
    for line in reversed(log.splitlines()):
        _, mark, told = line.partition(MARK)
        if not mark:
            continue
        try:
            words = TerminationMessage.model_validate(json.loads(told))
        except (ValueError, RecursionError, ValidationError):
            continue
        return words.model_copy(update={"message": words.message[:MAX_MESSAGE_CHARACTERS]})
    return None
