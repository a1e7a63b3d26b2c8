"""The secrets that a job names. The operator's settings say which of them a job may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from taper_api.job.spec import RLHFJobSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """A secret of the job's namespace, and the field that names it."""

    path: str
    name: str


def secret_references(spec: RLHFJobSpec) -> Iterator[SecretReference]:
    """Every secret that a job names. A job cannot get a secret in any other way."""
    for index, name in enumerate(spec.image.pull_secrets):
        yield SecretReference(path=f"spec.image.pullSecrets[{index}]", name=name)
    for index, variable in enumerate(spec.env):
        if variable.secret is not None:
            yield SecretReference(path=f"spec.env[{index}].secret.name", name=variable.secret.name)
