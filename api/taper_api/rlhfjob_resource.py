"""An RLHFJob as an API server returns it, with fields that the server adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from taper_api.base.job_error import JobError
from taper_api.base.violations import problems_of
from taper_api.rlhfjob import Metadata, RLHFJob


def job_of_resource(resource: Mapping[str, Any]) -> RLHFJob:
    """The job in an object from an API server: without its status, and what the server adds to its metadata.

    `JobError` for what is no valid job: a server that has an older definition takes more.
    """
    known = {field.alias or name for name, field in Metadata.model_fields.items()}
    content = {name: value for name, value in resource.items() if name != "status"}
    metadata = content.get("metadata")
    if isinstance(metadata, Mapping):
        content["metadata"] = {name: value for name, value in metadata.items() if name in known}
    try:
        return RLHFJob.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        raise JobError(problems_of(error, RLHFJob)) from None
