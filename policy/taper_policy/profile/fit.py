"""A profile from raw samples: what a profiler measured, as medians and terms with honest errors.

Steps. A sample counts for the grid context nearest to its own, and is brought there along
the line through the medians of its line's cells (contexts grow while a cell is measured).
Of each cell the share `HELD_OUT_SHARE` of the samples, spread evenly over the time, is held
out; the rest gives the median and its interval. The held-out samples, at their own
contexts, give the profile's `held_out_error`: the mean of |predicted - measured| / measured, over
the samples; and its `held_out_cell_error`: over the cells, of the means of their samples.

Switches and prefills. Terms by `robust_fit`, for each pair and degree; their p90 errors are
cross-validated: each sample is predicted by terms fitted without its fold, which is that share of them.
A recomputed token that no switch of a pair had costs what it costs the prefill of the
target's degree; what migrating costs a request, or once, then cannot be separated from what
any switch costs. Every pair must have moved requests and bytes: what was never measured
does not become free.

Invariants (asserted by `tests/policy/profile/test_fit.py`):
- samples of a model that is linear in context give its cells and terms back;
- a tenth of spoilt samples moves no cell by more than the noise;
- samples that are held out do not change the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.robust_fit import (
    MIN_FOR_INTERVAL,
    median_and_half_width,
    nonnegative_terms,
    p90,
    relative_errors,
)
from taper_policy.profile.step_surface import StepCell

_Place = tuple[int, int, int, int]
_Item = TypeVar("_Item")
_Key = TypeVar("_Key")

HELD_OUT_SHARE: Final = 0.2
NARROW_SHARE: Final = 0.03
MIN_SAMPLES: Final = 12
MAX_SAMPLES: Final = 200
# Folds of fewer samples say nothing.
MIN_TERM_SAMPLES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """One decode step of a group; `context_tokens` is the mean over its requests."""

    degree: int
    batch: int
    context_tokens: float
    busy_groups: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSample:
    """One prefill of `tokens` tokens by one group."""

    degree: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchSample:
    """One switch.

    requests: all that lived through it
    migrated_requests: those of them that took their KV along
    num_bytes: of the whole KV of these
    recomputed_tokens: of the target group that had most
    """

    from_degree: int
    to_degree: int
    requests: int
    migrated_requests: int
    num_bytes: int
    recomputed_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All that was measured, each kind in the order of time."""

    steps: Sequence[StepSample]
    prefills: Sequence[PrefillSample]
    switches: Sequence[SwitchSample]


def needs_more(samples: Sequence[float]) -> bool:
    """Whether one cell's seconds so far leave it too uncertain: fewer than `MIN_SAMPLES`, or a 95 % half
    width above `NARROW_SHARE` of the median. `MAX_SAMPLES` are enough whatever they say."""
    if len(samples) < MIN_SAMPLES:
        return True
    if len(samples) >= MAX_SAMPLES:
        return False
    median, half_width = median_and_half_width(samples)
    return half_width > NARROW_SHARE * median


def fit_profile(
    samples: Samples,
    *,
    key: ProfileKey,
    footprint: int,
    degrees: tuple[int, ...],
    kv_bytes_per_token: int,
    contexts: Sequence[int],
    made_at: str,
) -> Profile:
    """The profile that `samples` give on the grid of `contexts`.

    Raises `ValueError`, which begins with the field, for too few or impossible samples.
    """
    _check_seconds(samples)
    kept, held_out = _split_steps(samples.steps, contexts)
    prefills = _grouped(samples.prefills, lambda sample: sample.degree)
    prefill = {degree: _prefill_terms(prefills.get(degree, []), degree) for degree in degrees}
    switches = _grouped(samples.switches, lambda sample: (sample.from_degree, sample.to_degree))
    switch = {pair: _switch_terms(switches[pair], pair, prefill) for pair in sorted(switches)}
    profile = Profile(
        key=key,
        footprint=footprint,
        degrees=degrees,
        kv_bytes_per_token=kv_bytes_per_token,
        cells=tuple(sorted(_cells(kept), key=lambda cell: cell.place)),
        prefill=prefill,
        switch=switch,
        held_out_error=0.0,
        held_out_cell_error=0.0,
        held_out_share=HELD_OUT_SHARE,
        made_at=made_at,
    )
    of_steps, of_cells = held_out_errors(profile, held_out.values())
    return replace(profile, held_out_error=of_steps, held_out_cell_error=of_cells)


def held_out_errors(profile: Profile, cells: Iterable[Sequence[StepSample]]) -> tuple[float, float]:
    """Mean errors, relative to what was measured: over all steps, and over the means of the cells.

    Each of `cells` has the samples of one; a cell without any does not count. Raises `ValueError` where
    none counts.
    """
    taken = [chosen for chosen in cells if chosen]
    if not taken:
        raise ValueError("steps: no sample to compare with")
    predicted = [_predicted(profile, chosen) for chosen in taken]
    measured = [np.array([sample.seconds for sample in chosen]) for chosen in taken]
    of_steps = relative_errors(np.concatenate(predicted), np.concatenate(measured))
    of_cells = relative_errors([steps.mean() for steps in predicted], [steps.mean() for steps in measured])
    return float(of_steps.mean()), float(of_cells.mean())


def _predicted(profile: Profile, samples: Sequence[StepSample]) -> FloatArray:
    """The seconds of `samples`, all of one degree, by the profile."""
    return profile.steps(samples[0].degree).seconds(
        [sample.batch for sample in samples],
        [sample.context_tokens for sample in samples],
        [sample.busy_groups for sample in samples],
    )


def _check_seconds(samples: Samples) -> None:
    for name in Samples.__slots__:
        for index, sample in enumerate(getattr(samples, name)):
            if not 0 < sample.seconds < float("inf"):
                raise ValueError(
                    f"{name}[{index}].seconds: {sample.seconds} is not a finite number above zero"
                )


def _split_steps(
    steps: Sequence[StepSample], contexts: Sequence[int]
) -> tuple[dict[_Place, list[StepSample]], dict[_Place, list[StepSample]]]:
    """The samples that are kept and those that are held out, by cell."""
    grid = sorted(contexts)
    if not grid or grid[0] < 1:
        raise ValueError(f"contexts: {list(contexts)} are not all 1 or more")

    def place(sample: StepSample) -> _Place:
        nearest = min(grid, key=lambda context: abs(context - sample.context_tokens))
        return sample.degree, sample.busy_groups, sample.batch, nearest

    kept, held_out = {}, {}
    for where, samples in _grouped(steps, place).items():
        held_out[where] = [sample for index, sample in enumerate(samples) if _is_held_out(index)]
        kept[where] = [sample for index, sample in enumerate(samples) if not _is_held_out(index)]
        if len(kept[where]) < MIN_FOR_INTERVAL:
            names = dict(zip(("degree", "busy_groups", "batch", "context_tokens"), where, strict=True))
            raise ValueError(
                f"steps: {len(kept[where])} samples of {names} besides those held out; "
                f"at least {MIN_FOR_INTERVAL} are needed"
            )
    return kept, held_out


def _is_held_out(index: int) -> bool:
    """Of any n samples in a row, `HELD_OUT_SHARE * n` rounded up or down."""
    return int((index + 1) * HELD_OUT_SHARE) > int(index * HELD_OUT_SHARE)


def _cells(kept: Mapping[_Place, Sequence[StepSample]]) -> Iterable[StepCell]:
    """The cells, line by line."""
    for line in _grouped(kept, lambda place: place[:3]).values():
        middles = {
            place: (
                float(np.median([sample.context_tokens for sample in kept[place]])),
                float(np.median([sample.seconds for sample in kept[place]])),
            )
            for place in line
        }
        middle = np.array(sorted(middles.values())).T
        for place in line:
            degree, busy_groups, batch, context = place
            own = np.array([sample.context_tokens for sample in kept[place]])
            moved = _on_line(np.array([context]), *middle) - _on_line(own, *middle)
            seconds = np.array([sample.seconds for sample in kept[place]]) + moved
            median, half_width = median_and_half_width([float(number) for number in seconds])
            yield StepCell(
                degree=degree,
                batch=batch,
                context_tokens=context,
                busy_groups=busy_groups,
                seconds=median,
                half_width_seconds=half_width,
                num_samples=len(own),
            )


def _on_line(points: FloatArray, contexts: FloatArray, seconds: FloatArray) -> FloatArray:
    """Linear between the known contexts, and beyond them; flat where only one is known."""
    if len(contexts) == 1:
        return np.full(len(points), seconds[0])
    left = np.clip(np.searchsorted(contexts, points) - 1, 0, len(contexts) - 2)
    slopes = np.diff(seconds) / np.diff(contexts)
    line: FloatArray = seconds[left] + slopes[left] * (points - contexts[left])
    return line


def _prefill_terms(samples: Sequence[PrefillSample], degree: int) -> PrefillTerms:
    _require_enough(len(samples), f"prefills: degree {degree}")
    amounts = np.array([(1.0, sample.tokens) for sample in samples])
    terms, error = _terms_and_error(amounts, np.array([sample.seconds for sample in samples]))
    if not terms[1] > 0:
        raise ValueError(f"prefills: degree {degree}: more tokens took no more time; measure longer prompts")
    return PrefillTerms(
        fixed_seconds=float(terms[0]), token_seconds=float(terms[1]), relative_error_p90=error
    )


def _switch_terms(
    samples: Sequence[SwitchSample],
    pair: tuple[int, int],
    prefill: Mapping[int, PrefillTerms],
) -> SwitchTerms:
    path = f"switches: {pair[0]}->{pair[1]}"
    _require_enough(len(samples), path)
    amounts = np.array([_switch_amounts(sample) for sample in samples])
    _, most_requests, _, most_migrated, most_bytes, most_recomputed = (
        int(most) for most in amounts.max(axis=0)
    )
    if not (most_migrated and most_bytes):
        raise ValueError(f"{path}: no sample moved a request and its bytes")
    if pair[1] not in prefill:
        raise ValueError(f"{path}: {pair[1]} is not among the degrees {sorted(prefill)}")
    terms, error = _terms_and_error(amounts, np.array([sample.seconds for sample in samples]))
    fixed, request, exchange, migrated_request, byte, recomputed_token = (float(term) for term in terms)
    return SwitchTerms(
        fixed_seconds=fixed,
        request_seconds=request,
        exchange_seconds=exchange,
        migrated_request_seconds=migrated_request,
        byte_seconds=byte,
        recomputed_token_seconds=recomputed_token if most_recomputed else prefill[pair[1]].token_seconds,
        relative_error_p90=error,
        most_requests=most_requests,
        most_bytes=most_bytes,
        most_recomputed_tokens=most_recomputed,
    )


def _switch_amounts(sample: SwitchSample) -> tuple[float, ...]:
    """By term, in the order of `SwitchTerms`. Terms that cannot be separated are attributed to the first."""
    return (
        1.0,
        sample.requests,
        float(sample.migrated_requests > 0),
        sample.migrated_requests,
        sample.num_bytes,
        sample.recomputed_tokens,
    )


def _terms_and_error(amounts: FloatArray, seconds: FloatArray) -> tuple[FloatArray, float]:
    """The terms of all samples, and the p90 relative error of each predicted without its fold."""
    num_folds = min(len(seconds), round(1 / HELD_OUT_SHARE))
    # Shuffled, always alike: amounts measured in turns must not make a fold of one amount.
    fold = np.random.default_rng(0).permutation(len(seconds)) % num_folds
    predicted = np.empty(len(seconds))
    for number in range(num_folds):
        terms = nonnegative_terms(amounts[fold != number], seconds[fold != number])
        predicted[fold == number] = amounts[fold == number] @ terms
    return nonnegative_terms(amounts, seconds), p90(relative_errors(predicted, seconds))


def _require_enough(count: int, path: str) -> None:
    if count < MIN_TERM_SAMPLES:
        raise ValueError(f"{path}: {count} samples; at least {MIN_TERM_SAMPLES} are needed")


def _grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
