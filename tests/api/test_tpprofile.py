"""TPProfile says what a profile's file says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from taper_api.base.job_error import JobError
from taper_api.base.violations import problems_of
from taper_api.profile.tpprofile import TPProfile, TPProfileSpec
from taper_api.schema.crd import tpprofile_crd
from taper_policy.profile.file import profile_as_json, profile_from_json
from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.step_surface import StepCell

from .admission import errors

SCHEMA = tpprofile_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def profile() -> Profile:
    cells = [
        StepCell(
            degree=degree,
            batch=batch,
            context_tokens=context,
            busy_groups=1,
            seconds=0.01 * batch / degree,
            half_width_seconds=0,
            num_samples=8,
        )
        for degree in (1, 2)
        for batch in (1, 8)
        for context in (32, 256)
    ]
    terms = dict.fromkeys(SwitchTerms.__dataclass_fields__, 0.25) | {
        "most_requests": 8,
        "most_bytes": None,
        "most_recomputed_tokens": 1000,
    }
    prefill = PrefillTerms(fixed_seconds=0.01, token_seconds=0.001, relative_error_p90=0.1)
    return Profile(
        key=ProfileKey(model="m", device="H100", dtype="bfloat16", versions={"sglang": "0.5.23"}),
        footprint=2,
        degrees=(1, 2),
        kv_bytes_per_token=1024,
        cells=tuple(cells),
        prefill={1: prefill, 2: prefill},
        switch={(1, 2): SwitchTerms(**terms)},  # type: ignore[arg-type]
        held_out_error=0.02,
        held_out_cell_error=0.01,
        made_at="2026-11-21T12:00:00+00:00",
    )


def spec_of_profile() -> TPProfileSpec:
    """The spec of a profile's file, whose names are the Python ones."""
    return TPProfileSpec.model_validate(profile_as_json(profile()), by_name=True, by_alias=False)


def document_of(spec: TPProfileSpec) -> dict[str, Any]:
    """The profile's file, as `taper_policy.profile.file` reads it."""
    return spec.model_dump(mode="json", by_alias=False)


def resource(**changes: Any) -> dict[str, Any]:
    spec = spec_of_profile().model_dump(mode="json", exclude_none=True)
    metadata = {"name": "h100"}
    return {
        "apiVersion": "taper.dev/v1alpha1",
        "kind": "TPProfile",
        "metadata": metadata,
        "spec": spec | changes,
    }


def test_a_profile_survives_a_round_trip() -> None:
    spec = spec_of_profile()
    assert document_of(spec) == profile_as_json(profile())
    through_a_server = TPProfile.model_validate(json.loads(json.dumps(resource())))
    assert profile_from_json(document_of(through_a_server.spec)) == profile()


def test_the_schema_accepts_a_profile() -> None:
    assert errors(resource(), SCHEMA) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"degrees": [2, 1]}, "spec.degrees"),
    ({"footprint": 4}, "spec.degrees"),
    ({"prefill": {"1": {"fixedSeconds": 0, "tokenSeconds": 1, "relativeErrorP90": 0}}}, "spec.prefill"),
    ({"switch": {"1->1": resource()["spec"]["switch"]["1->2"]}}, "spec.switch"),
    ({"switch": {"1->4": resource()["spec"]["switch"]["1->2"]}}, "spec.switch"),
    ({"cells": [resource()["spec"]["cells"][0] | {"degree": 8}]}, "spec.cells"),
    ({"heldOutError": None}, "spec.heldOutError"),
    ({"heldOutCellError": None}, "spec.heldOutCellError"),
    ({"kv": "both"}, "spec.kv"),
    ({"formatVersion": 1}, "spec.formatVersion"),
    ({"kvBytesPerToken": 0}, "spec.kvBytesPerToken"),
    ({"cells": []}, "spec.cells"),
]


@pytest.mark.parametrize(("changes", "path"), WRONG)
def test_a_contradiction_is_reported_with_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TPProfile.model_validate(resource(**changes))
    (problem, *_) = problems_of(caught.value, TPProfile)
    assert problem.path == path
    assert str(JobError([problem]))
