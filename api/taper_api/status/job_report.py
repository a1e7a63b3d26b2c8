"""What `taper run` posts to the operator about an attempt: all there is to know of it, each time anew.

A snapshot replaces the one before, so that any of them may be lost. It says nothing of the time of day:
clocks of pods may be wrong, so who hears it says when that was.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, ValidationError

from taper_api.base.block import Block
from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.status.condition import Count
from taper_api.status.progress import Seconds, SwitchFigures, TrainingFigures

MAX_SNAPSHOT_BYTES: Final = 16 * 1024
# The status is written no more often; who posts more often is wasting both sides' time.
REPORT_SECONDS: Final = 15.0
_MAX_REMAINING_SECONDS = 10 * 365 * 86_400


class JobReport(Block):
    """How an attempt stands."""

    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = Field(description="Attempt that it is of.")
    sequence: Annotated[Count, Field(ge=1)] = Field(description="Its number within the attempt.")
    is_last: bool = Field(default=False, description="Whether the attempt has ended, and no other follows.")
    remaining_seconds: Annotated[Seconds, Field(le=_MAX_REMAINING_SECONDS)] | None = Field(
        default=None, description="Time that the training will take yet, at its present pace."
    )
    training: TrainingFigures = Field(description="How far the training is.")
    rollout: SwitchFigures = Field(default=SwitchFigures(), description="What switching does for it.")

    def as_json(self) -> bytes:
        """The snapshot as it is posted."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def report_of(content: bytes) -> JobReport:
    """The snapshot that was posted. Raises ValueError in a line for what is none."""
    if len(content) > MAX_SNAPSHOT_BYTES:
        raise ValueError(f"{len(content)} bytes are more than {MAX_SNAPSHOT_BYTES}")
    try:
        return JobReport.model_validate_json(content, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
