"""The last line of a failed run, `TAPER_ERROR {json}`: `taper run` writes it, the operator reads it.

Ray passes the end of a driver's log on with a failure: ten lines, 20,000 characters. So the message is one
short line, whatever text it is made from.

Invariants (asserted by `tests/api/test_termination_message.py`):
- what is written is read back, cut to its bounds;
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
# The reason of a job that can never run: it is not retried.
INVALID_JOB: Final = "InvalidJob"


class TerminationMessage(Block):
    """Why a run failed. An older reader ignores fields that a newer writer adds."""

    model_config = ConfigDict(extra="ignore")

    reason: Annotated[str, Field(max_length=128)] = Field(default="", description="Why, in one word.")
    message: Annotated[str, Field(min_length=1)] = Field(description="Why, in words: the first real cause.")
    field: str | None = Field(default=None, description="Path of the job's field that is wrong, if one is.")
    remedy: str | None = Field(default=None, description="What would be right.")

    @property
    def text(self) -> str:
        """The whole message as text, for people."""
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
    """The last termination message in a log; None if there is none."""
    for line in reversed(log.splitlines()):
        _, mark, content = line.partition(MARK)
        if not mark:
            continue
        try:
            words = TerminationMessage.model_validate(json.loads(content))
        except (ValueError, RecursionError, ValidationError):
            continue
        return words.model_copy(update={"message": words.message[:MAX_MESSAGE_CHARACTERS]})
    return None
