"""RLHFJob: one training job, in the form that is also its Kubernetes resource."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from taper_api.base.block import Block
from taper_api.base.job_error import JobError
from taper_api.base.kubernetes_names import (
    JOB_NAME_PATTERN,
    MAX_JOB_NAME_CHARACTERS,
    Annotations,
    DnsLabel,
    Labels,
)
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rlhfjob_rules import contradictions


class Metadata(Block):
    """Name and labels, as in any Kubernetes object."""

    name: Annotated[str, Field(max_length=MAX_JOB_NAME_CHARACTERS, pattern=JOB_NAME_PATTERN)] = Field(
        description="Name of the job: at most 42 lower-case letters, digits and inner dashes; a letter first."
    )
    namespace: DnsLabel | None = Field(
        default=None, description="Namespace on a cluster; not read by `taper run`."
    )
    labels: Labels = Field(default={}, description="Labels, free to choose.")
    annotations: Annotations = Field(default={}, description="Annotations, free to choose.")


class RLHFJob(Block):
    """One training job.

    Raises `pydantic.ValidationError`; `load_job` turns it into a `JobError` with the fields' paths.
    """

    api_version: Literal["taper.dev/v1alpha1"] = Field(description="Version of this schema.")
    kind: Literal["RLHFJob"] = Field(description="Kind of resource.")
    metadata: Metadata
    spec: RLHFJobSpec

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        problems = contradictions(self.spec)
        if problems:
            raise JobError(problems)
        return self
