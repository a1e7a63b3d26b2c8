"""What `taper run` posts to the operator about an attempt: each report is complete.

A report replaces the one before, so any of them may be lost. It holds no time of day: clocks of pods may be
wrong, so the receiver adds the time.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, ValidationError

from taper_api.base.block import Block
from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.status.condition import Count
from taper_api.status.progress import Seconds, SwitchTotals, TrainingFigures

MAX_SNAPSHOT_BYTES: Final = 16 * 1024
# The status is written no more often, so posting more often gains nothing.
REPORT_SECONDS: Final = 15.0
_MAX_REMAINING_SECONDS = 10 * 365 * 86_400


class JobReport(Block):
    """State of an attempt."""

    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = Field(description="Number of the attempt.")
    sequence: Annotated[Count, Field(ge=1)] = Field(description="Number of the report within the attempt.")
    is_last: bool = Field(default=False, description="Whether this is the attempt's last report.")
    remaining_seconds: Annotated[Seconds, Field(le=_MAX_REMAINING_SECONDS)] | None = Field(
        default=None, description="Estimated seconds until the training ends, at its present pace."
    )
    training: TrainingFigures
    rollout: SwitchTotals = Field(default=SwitchTotals(), description="Switches and their gain.")

    def as_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def report_of(content: bytes) -> JobReport:
    """The report in a post. Raises ValueError, of one line, for what is not a report."""
    if len(content) > MAX_SNAPSHOT_BYTES:
        raise ValueError(f"{len(content)} bytes are more than {MAX_SNAPSHOT_BYTES}")
    try:
        return JobReport.model_validate_json(content, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
