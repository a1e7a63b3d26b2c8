"""TPProfile: a published profile, by which the replicas of a cluster decide.

Its `spec` is the profile's file, field for field; only the spelling differs (`contextTokens`
here, `context_tokens` there). What the numbers mean is defined where they are used:
`taper_policy.profile.profile`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic.alias_generators import to_camel

from taper_api.base.block import Block, keyed_by
from taper_api.base.job_error import JobError
from taper_api.base.kubernetes_names import Annotations, DnsLabel, DnsSubdomain, Labels, without_nulls
from taper_api.job.rollout_spec import Degree, Positive
from taper_api.rules.rule import Constraint, rule_of
from taper_api.status.condition import Condition, Count, Time

Name = Annotated[str, Field(min_length=1, max_length=256)]
PackageName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$")]
NotNegative = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]
DegreeKey = Annotated[str, Field(max_length=1, pattern=r"^[1248]$")]
DegreePair = Annotated[str, Field(max_length=4, pattern=r"^[1248]->[1248]$")]


class TPProfileKey(Block):
    """What was measured: the model, on a device, with these versions."""

    model: Name = Field(description="The model.")
    device: Name = Field(description="The GPU.")
    dtype: Name = Field(description="Number format of the weights.")
    versions: Annotated[dict[PackageName, Name], Field(max_length=16), BeforeValidator(without_nulls)] = (
        Field(description="Versions of the packages that decide how fast a step is, by name.")
    )


class ProfileCell(Block):
    """A measured decode step."""

    degree: Degree = Field(description="TP degree of the group.")
    batch: Positive = Field(description="Requests in the group.")
    context_tokens: Positive = Field(description="Mean tokens of a request.")
    busy_groups: Positive = Field(description="Groups of the replica that decode at the same time.")
    seconds: Above = Field(description="Median of the step.")
    half_width_seconds: NotNegative = Field(description="Half the width of its 95 % interval.")
    num_samples: Count = Field(description="Number of samples.")


class ProfilePrefill(Block):
    """Duration of a prefill: `fixedSeconds` + tokens x `tokenSeconds`."""

    fixed_seconds: NotNegative = Field(description="Seconds of any prefill.")
    token_seconds: Above = Field(description="Seconds of a token.")
    relative_error_p90: NotNegative = Field(description="90th percentile of the error, held out.")


class ProfileSwitch(Block):
    """Duration of a switch from one degree to another: the sum of these terms times their amounts."""

    fixed_seconds: NotNegative = Field(description="Seconds of any switch.")
    request_seconds: NotNegative = Field(description="Seconds of a live request.")
    exchange_seconds: NotNegative = Field(description="Seconds of any migration.")
    migrated_request_seconds: NotNegative = Field(description="Seconds of a request that migrates.")
    byte_seconds: NotNegative = Field(description="Seconds of a byte that migrates.")
    recomputed_token_seconds: NotNegative = Field(description="Seconds of a token that is recomputed.")
    relative_error_p90: NotNegative = Field(description="90th percentile of the error, held out.")
    most_requests: Count | None = Field(default=None, description="Most live requests that were measured.")
    most_bytes: Count | None = Field(default=None, description="Most bytes that were measured.")
    most_recomputed_tokens: Count | None = Field(
        default=None, description="Most recomputed tokens that were measured."
    )


class TPProfileSpec(Block):
    """The profile."""

    format_version: Literal[4] = Field(description="Version of the schema.")
    is_estimated: bool = Field(
        description="Whether it was derived from published figures instead of measured."
    )
    made_at: Time = Field(description="When it was made, with the time zone.")
    key: TPProfileKey
    footprint: Degree = Field(description="Ranks of a replica.")
    degrees: Annotated[tuple[Degree, ...], Field(strict=False, min_length=1, max_length=4)] = Field(
        description="Degrees of a replica, ascending; the last is the footprint."
    )
    kv_bytes_per_token: Positive = Field(description="Bytes of KV cache for a token, over all ranks.")
    held_out_error: NotNegative | None = Field(
        default=None, description="Mean relative error of the held-out decode steps."
    )
    held_out_cell_error: NotNegative | None = Field(
        default=None, description="Mean relative error of each cell's mean held-out step."
    )
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = Field(description="Share of samples held out.")
    kv: Literal["auto", "migrate", "recompute"] = Field(
        description="How the measured switches treat the KV cache."
    )
    prefill: Annotated[
        dict[DegreeKey, ProfilePrefill], Field(min_length=1, max_length=4), BeforeValidator(without_nulls)
    ] = Field(description="Duration of a prefill, by degree.")
    switch: Annotated[
        dict[DegreePair, ProfileSwitch], Field(max_length=12), BeforeValidator(without_nulls)
    ] = Field(description="Duration of a switch, by the degrees from and to, such as `1->2`.")
    cells: Annotated[tuple[ProfileCell, ...], Field(strict=False, min_length=1, max_length=4096)] = Field(
        description="Decode steps, in ascending order of degree, busy groups, batch and context."
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        problems = [problem for rule in PROFILE_RULES for problem in rule.check(self)]
        if problems:
            raise JobError(problems)
        return self


class TPProfileStatus(Block):
    """State of the profile."""

    observed_generation: Count | None = Field(
        default=None, description="Generation of the profile that this status describes."
    )
    conditions: Annotated[tuple[Condition, ...], Field(strict=False, max_length=8)] = Field(
        default=(), json_schema_extra=keyed_by("type"), description="Conditions of the profile."
    )


class TPProfileMetadata(Block):
    """Name and labels, as in any Kubernetes object."""

    name: DnsSubdomain = Field(description="Name of the profile.")
    namespace: DnsLabel | None = Field(default=None, description="Its namespace.")
    labels: Labels = Field(default={}, description="Labels, free to choose.")
    annotations: Annotations = Field(default={}, description="Annotations, free to choose.")


class TPProfile(Block):
    """A measured profile of step times and switch costs, by which replicas decide."""

    api_version: Literal["taper.dev/v1alpha1"] = Field(description="Version of this schema.")
    kind: Literal["TPProfile"] = Field(description="Kind of resource.")
    metadata: TPProfileMetadata
    spec: TPProfileSpec


def _pairs(spec: TPProfileSpec) -> list[tuple[int, int]]:
    """The degrees of each switch, from and to."""
    return [(int(pair[0]), int(pair[-1])) for pair in spec.switch]


_FROM, _TO = "int(pair.substring(0, 1))", "int(pair.substring(3, 4))"
PROFILE_RULES = (
    rule_of(
        "A profile agrees with itself.",
        Constraint(
            at="spec",
            field="degrees",
            holds=lambda spec: (
                list(spec.degrees) == sorted(set(spec.degrees)) and spec.degrees[-1] == spec.footprint
            ),
            cel="self.degrees[size(self.degrees) - 1] == self.footprint && [1, 2, 3].all(i, "
            "i >= size(self.degrees) || self.degrees[i - 1] < self.degrees[i])",
            message="must ascend and end with the footprint",
            remedy="list each degree once",
        ),
        Constraint(
            at="spec",
            field="prefill",
            holds=lambda spec: {int(key) for key in spec.prefill} == set(spec.degrees),
            cel="size(self.prefill) == size(self.degrees) && self.prefill.all(d, int(d) in self.degrees)",
            message="must have the degrees of spec.degrees",
            remedy="give it for each of them",
        ),
        Constraint(
            at="spec",
            field="switch",
            holds=lambda spec: all(
                one != two and {one, two} <= set(spec.degrees) for one, two in _pairs(spec)
            ),
            # `1->2`: the pattern of the key ensures that the digits are there.
            cel=f"self.switch.all(pair, {_FROM} != {_TO} && [{_FROM}, {_TO}].all(d, d in self.degrees))",
            message="must have pairs of the degrees",
            remedy="name different ones of spec.degrees",
        ),
        Constraint(
            at="spec",
            field="cells",
            holds=lambda spec: all(cell.degree in spec.degrees for cell in spec.cells),
            cel="self.cells.all(cell, cell.degree in self.degrees)",
            message="must have degrees of spec.degrees only",
            remedy="remove the others",
        ),
        *(
            Constraint(
                at="spec",
                field=to_camel(name),
                holds=lambda spec, name=name: spec.is_estimated or getattr(spec, name) is not None,  # type: ignore[misc]
                cel=f"self.isEstimated || has(self.{to_camel(name)})",
                message="is missing in a profile that is not estimated",
                remedy="measure it",
            )
            for name in ("held_out_error", "held_out_cell_error")
        ),
    ),
)
