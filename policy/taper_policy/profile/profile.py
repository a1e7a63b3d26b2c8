"""What is known of a model on a device: seconds of decode steps, prefills and switches.

A profile is a value: it is measured once (`fit`), kept in a file (`file`)
and asked by the decision. It belongs to a model, a device, a dtype and package versions,
its key; `file.check_profile` refuses it for any other.

A switch takes the sum of its amounts times its terms, which each pair of degrees has of its own:

    fixed + requests * request                       every switch, every live request
    + exchange + migrated requests * migrated request + bytes * byte     if requests migrate
    + recomputed tokens * recomputed token

Bytes are those of the whole KV of the requests that migrate, `migrated tokens *
kv_bytes_per_token`, whichever part of them crosses ranks. Recomputed tokens are those of
the target group that has most: groups prefill at the same time. The wait of the first group to stop
for the last is no part of it: it is what is left of a step, and whoever asks knows the steps.

Invariants (asserted by `tests/policy/profile/test_profile.py`):
- no lookup is negative;
- a switch never takes less with more requests or tokens;
- a choice per request (`kv_choice`) never takes more than `pause_seconds` says;
- what cannot be true raises `ValueError` that begins with the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import FloatArray
from taper_policy.layout import uniform_degrees
from taper_policy.profile.kv_choice import AUTO, KV_MODES, KvCosts
from taper_policy.profile.step_surface import StepCell, StepSurface, check_cells


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileKey:
    """What a profile is of. `versions` of the packages that decide how fast a step is, by name."""

    model: str
    device: str
    dtype: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTerms:
    """A prefill of one group takes `fixed_seconds + tokens * token_seconds`.

    relative_error_p90: of samples that were held out
    """

    fixed_seconds: float
    token_seconds: float
    relative_error_p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchTerms:
    """What a switch from one degree to another takes (see the module's docstring).

    relative_error_p90: of samples that were held out
    most_requests, most_bytes, most_recomputed_tokens: the largest measured; None where nothing was measured
    """

    fixed_seconds: float
    request_seconds: float
    exchange_seconds: float
    migrated_request_seconds: float
    byte_seconds: float
    recomputed_token_seconds: float
    relative_error_p90: float
    most_requests: int | None = None
    most_bytes: int | None = None
    most_recomputed_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A measured (or, with `is_estimated`, derived) profile of replicas of `footprint` ranks.

    degrees: ascending, ending at the footprint
    kv_bytes_per_token: of the whole model, all ranks together
    cells: in ascending order of `StepCell.place`
    prefill: by degree
    switch: by (from degree, to degree)
    held_out_error: mean absolute error, relative to what was measured, of the decode steps that
        were held out; None where nothing was measured
    held_out_cell_error: the same of the mean of each cell's held-out steps: what is left when the
        machine's own spread from step to step is averaged out, as it is over a stage
    held_out_share: of the samples
    made_at: ISO 8601, with the time zone
    kv: what the switches that it prices do with the KV cache: `migrate`, `recompute`, or `auto`, which
        is either, as costs less. A measured one has `auto`; a job that asks for one way prices that.

    Raises `ValueError` that begins with the field for what cannot be true.
    """

    is_estimated: bool = False
    made_at: str
    key: ProfileKey
    footprint: int
    degrees: tuple[int, ...]
    kv_bytes_per_token: int
    held_out_error: float | None
    held_out_cell_error: float | None = None
    held_out_share: float = 0.0
    kv: str = AUTO
    prefill: Mapping[int, PrefillTerms]
    switch: Mapping[tuple[int, int], SwitchTerms]
    cells: tuple[StepCell, ...]
    _surfaces: dict[int, StepSurface] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        surfaces = {
            degree: StepSurface(
                (cell for cell in self.cells if cell.degree == degree), num_groups=self.footprint // degree
            )
            for degree in self.degrees
        }
        object.__setattr__(self, "_surfaces", surfaces)

    def __str__(self) -> str:
        """One line that says what it is of, and how far it can be trusted."""
        trust = "ESTIMATED from published figures, not measured" if self.is_estimated else "measured"
        where = f"{self.key.model} on {self.footprint} x {self.key.device}, {self.key.dtype}"
        errors = [
            f", held-out {name} error {error:.1%}"
            for name, error in (("step", self.held_out_error), ("cell", self.held_out_cell_error))
            if error is not None
        ]
        return f"{where}: {trust} {self.made_at}{''.join(errors)}"

    def steps(self, degree: int) -> StepSurface:
        """The step times of a group of `degree` ranks. Raises `ValueError` for an unknown degree."""
        if degree not in self._surfaces:
            raise ValueError(f"degree: {degree} is not among the profile's degrees {list(self.degrees)}")
        return self._surfaces[degree]

    def prefill_seconds(self, degree: int, tokens: float) -> float:
        """Seconds of a prefill of `tokens` tokens by one group of `degree` ranks."""
        if degree not in self.prefill:
            raise ValueError(f"degree: {degree} is not among the profile's degrees {list(self.degrees)}")
        if not tokens >= 0:
            raise ValueError(f"tokens: {tokens} is not 0 or more")
        terms = self.prefill[degree]
        return terms.fixed_seconds + tokens * terms.token_seconds

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: npt.ArrayLike, context_tokens: npt.ArrayLike
    ) -> FloatArray:
        """Seconds of switches of `requests` with `context_tokens`, summed over them, elementwise.

        With `kv: auto` they migrate all or recompute all, whichever takes less. From totals no more can
        be known: a choice per request takes as much or less. So that this holds for any spread of the
        requests over the target groups, one group is taken to recompute all.
        """
        terms = self._switch(from_degree, to_degree)
        count = np.asarray(requests, dtype=np.float64)
        num_bytes = np.asarray(context_tokens, dtype=np.float64) * self.kv_bytes_per_token
        for name, amount in (("requests", count), ("bytes", num_bytes)):
            if amount.size and not amount.min() >= 0:
                raise ValueError(f"{name}: {amount.min()} is not 0 or more")
        migrated = (
            terms.exchange_seconds * (count > 0)
            + terms.migrated_request_seconds * count
            + terms.byte_seconds * num_bytes
        )
        recomputed = terms.recomputed_token_seconds * np.asarray(context_tokens, dtype=np.float64)
        ways = {"migrate": migrated, "recompute": recomputed, AUTO: np.minimum(migrated, recomputed)}
        total: FloatArray = terms.fixed_seconds + terms.request_seconds * count + ways[self.kv]
        return total

    def kv_costs(self, from_degree: int, to_degree: int) -> KvCosts:
        """What migrating and recomputing cost. Raises `ValueError` for a pair never measured."""
        terms = self._switch(from_degree, to_degree)
        return KvCosts(
            exchange_seconds=terms.exchange_seconds,
            migrated_request_seconds=terms.migrated_request_seconds,
            migrated_token_seconds=terms.byte_seconds * self.kv_bytes_per_token,
            recomputed_token_seconds=terms.recomputed_token_seconds,
        )

    def _switch(self, from_degree: int, to_degree: int) -> SwitchTerms:
        terms = self.switch.get((from_degree, to_degree))
        if terms is None:
            known = ", ".join(f"{one}->{two}" for one, two in sorted(self.switch)) or "none"
            raise ValueError(f"switch.{from_degree}->{to_degree}: not in the profile, which has {known}")
        return terms


def _check(profile: Profile) -> None:
    _check_key(profile.key)
    if profile.kv_bytes_per_token < 1:
        raise ValueError(f"kv_bytes_per_token: {profile.kv_bytes_per_token} is not 1 or more")
    uniform_degrees(profile.footprint, profile.degrees)
    check_cells(
        profile.cells, footprint=profile.footprint, degrees=profile.degrees, derived=profile.is_estimated
    )
    if sorted(profile.prefill) != list(profile.degrees):
        raise ValueError(f"prefill: has the degrees {sorted(profile.prefill)}, not {list(profile.degrees)}")
    for degree, prefill in profile.prefill.items():
        _check_numbers(prefill, f"prefill.{degree}")
        if not prefill.token_seconds > 0:
            raise ValueError(f"prefill.{degree}.token_seconds: {prefill.token_seconds} is not above zero")
    for (one, two), switch in profile.switch.items():
        if one == two or one not in profile.degrees or two not in profile.degrees:
            raise ValueError(f"switch.{one}->{two}: is no pair of the degrees {list(profile.degrees)}")
        _check_numbers(switch, f"switch.{one}->{two}")
    if profile.kv not in KV_MODES:
        raise ValueError(f"kv: {profile.kv!r} is not one of {', '.join(KV_MODES)}")
    _check_trust(profile)


def _check_trust(profile: Profile) -> None:
    for name in ("held_out_error", "held_out_cell_error"):
        error = getattr(profile, name)
        if error is None and not profile.is_estimated:
            raise ValueError(f"{name}: missing in a profile that is not estimated")
        if error is not None and not (math.isfinite(error) and error >= 0):
            raise ValueError(f"{name}: {error} is not 0 or more, and finite")
    if not 0 <= profile.held_out_share < 1:
        raise ValueError(f"held_out_share: {profile.held_out_share} is not within [0, 1)")
    try:
        zone = datetime.fromisoformat(profile.made_at).tzinfo
    except ValueError:
        raise ValueError(f"made_at: {profile.made_at!r} is no ISO 8601 time") from None
    if zone is None:
        raise ValueError(f"made_at: {profile.made_at!r} lacks the time zone")


def _check_key(key: ProfileKey) -> None:
    texts = {"model": key.model, "device": key.device, "dtype": key.dtype}
    texts |= {f"versions.{name}": version for name, version in key.versions.items()}
    for name, text in texts.items():
        if not text:
            raise ValueError(f"key.{name}: is empty")


def _check_numbers(terms: PrefillTerms | SwitchTerms, path: str) -> None:
    for name in terms.__slots__:
        number = getattr(terms, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{path}.{name}: {number} is not 0 or more, and finite")
    if isinstance(terms, SwitchTerms) and not any(
        getattr(terms, name) for name in terms.__slots__ if name.endswith("_seconds")
    ):
        raise ValueError(f"{path}: a switch that takes no time")
