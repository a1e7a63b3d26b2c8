import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile.fit import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    PrefillSample,
    Samples,
    StepSample,
    SwitchSample,
    fit_profile,
    held_out_errors,
    needs_more,
)
from taper_policy.profile.profile import Profile, ProfileKey

from ...examples import examples
from .switch_model import switch_seconds

KEY = ProfileKey(model="m", device="CPU", dtype="float32", versions={"sglang": "1"})
CONTEXTS = (256, 1024, 4096)
BATCHES = (1, 2, 3, 4, 8)
KV_BYTES = 1000


def true_seconds(degree: int, batch: int, context: float) -> float:
    """Linear in context, with a jump between batches 3 and 4."""
    return ((0.02 if batch > 3 else 0.012) + 0.001 * batch + 2e-7 * batch * context) / degree


def true_pause(requests: int, migrated: int, num_bytes: int, recomputed: int) -> float:
    moving = 0.01 * (migrated > 0) + 0.003 * migrated + 2e-9 * num_bytes
    return 0.05 + 0.002 * requests + moving + 1e-5 * recomputed


def measured(seed: int = 0, *, noise: float = 0.0, per_cell: int = 20, spoilt: float = 0.0) -> Samples:
    """What a profiler measures: contexts grow as a cell is measured, some samples are spoilt."""
    random = np.random.default_rng(seed)

    def noisy(seconds: float) -> float:
        slowed = 4.0 if random.random() < spoilt else 1.0
        return float(seconds * slowed * (1 + noise * random.standard_normal()))

    steps = [
        StepSample(
            degree=degree,
            batch=batch,
            context_tokens=context + 0.5 + index,
            busy_groups=1,
            seconds=noisy(true_seconds(degree, batch, context + 0.5 + index)),
        )
        for degree in (1, 2)
        for batch in BATCHES
        for context in CONTEXTS
        for index in range(per_cell)
    ]
    prefills = [
        PrefillSample(degree=degree, tokens=tokens, seconds=noisy(0.01 + 1e-4 * tokens / degree))
        for degree in (1, 2)
        for tokens in (64, 256, 1024, 4096) * 3
    ]
    amounts = [(r, r, r * t * KV_BYTES, 0) for r in (0, 1, 4, 16) for t in (100, 1000, 5000)]
    amounts += [(r, 0, 0, r * t) for r in (1, 4, 16) for t in (100, 1000, 5000)]
    switches = [
        SwitchSample(
            from_degree=pair[0],
            to_degree=pair[1],
            requests=requests,
            migrated_requests=migrated,
            num_bytes=num_bytes,
            recomputed_tokens=recomputed,
            seconds=noisy(true_pause(requests, migrated, num_bytes, recomputed)),
        )
        for pair in ((1, 2), (2, 1))
        for requests, migrated, num_bytes, recomputed in amounts * 2
    ]
    return Samples(steps=steps, prefills=prefills, switches=switches)


def fitted(samples: Samples, **fields: Any) -> Profile:
    known: dict[str, Any] = {
        "key": KEY,
        "footprint": 2,
        "degrees": (1, 2),
        "kv_bytes_per_token": KV_BYTES,
        "contexts": CONTEXTS,
        "made_at": "2026-11-21T12:00:00+00:00",
    }
    return fit_profile(samples, **known | fields)


def test_exact_samples_give_cells_and_terms_back() -> None:
    profile = fitted(measured())
    assert len(profile.cells) == 2 * len(BATCHES) * len(CONTEXTS)
    for cell in profile.cells:
        assert cell.seconds == pytest.approx(true_seconds(cell.degree, cell.batch, cell.context_tokens))
        assert cell.half_width_seconds < 1e-12
        assert cell.num_samples == 16
    assert profile.held_out_error == pytest.approx(0.0, abs=1e-5)
    assert profile.held_out_cell_error == pytest.approx(0.0, abs=1e-5)
    for degree, prefill in profile.prefill.items():
        assert prefill.fixed_seconds == pytest.approx(0.01)
        assert prefill.token_seconds == pytest.approx(1e-4 / degree)
    for terms in profile.switch.values():
        assert terms.fixed_seconds == pytest.approx(0.05)
        assert terms.request_seconds == pytest.approx(0.002)
        assert terms.exchange_seconds == pytest.approx(0.01)
        assert terms.migrated_request_seconds == pytest.approx(0.003)
        assert terms.byte_seconds == pytest.approx(2e-9)
        assert terms.recomputed_token_seconds == pytest.approx(1e-5)
        assert terms.relative_error_p90 < 1e-9
        assert (terms.most_requests, terms.most_bytes) == (16, 80_000_000)
        assert terms.most_recomputed_tokens == 80_000


@examples(5)
@given(st.integers(0, 2**32 - 1))
def test_spoilt_samples_move_no_cell_by_more_than_the_noise(seed: int) -> None:
    profile = fitted(measured(seed, noise=0.02, per_cell=40, spoilt=0.1))
    for cell in profile.cells:
        truth = true_seconds(cell.degree, cell.batch, cell.context_tokens)
        assert cell.seconds == pytest.approx(truth, rel=0.025)
    pause = switch_seconds(
        profile, 1, 2, requests=8, migrated_requests=8, migrated_tokens=16_000, recomputed_tokens=0
    )
    assert pause == pytest.approx(true_pause(8, 8, 16_000 * KV_BYTES, 0), rel=0.05)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    cells = [cell for seed in range(5) for cell in fitted(measured(seed, noise=0.05, per_cell=25)).cells]
    held = [
        abs(cell.seconds - true_seconds(cell.degree, cell.batch, cell.context_tokens))
        <= cell.half_width_seconds
        for cell in cells
    ]
    assert np.mean(held) >= 0.93


def test_the_held_out_error_is_that_of_the_noise() -> None:
    profile = fitted(measured(1, noise=0.05, per_cell=50))
    # The mean absolute value of a normal error is 0.8 of its deviation.
    assert profile.held_out_error == pytest.approx(0.04, abs=0.006)
    # Of ten held-out steps, and of about forty kept ones.
    assert profile.held_out_cell_error == pytest.approx(0.04 / math.sqrt(8), rel=0.3)
    assert profile.held_out_share == 0.2
    assert profile.switch[1, 2].relative_error_p90 == pytest.approx(0.08, abs=0.04)


def test_held_out_samples_do_not_change_the_cells() -> None:
    samples = measured(2, noise=0.05)
    spoilt = [
        replace(sample, seconds=sample.seconds * (100 if index % 5 == 4 else 1))
        for index, sample in enumerate(samples.steps)
    ]
    profile, other = fitted(samples), fitted(replace(samples, steps=spoilt))
    assert profile.cells == other.cells
    assert profile.held_out_error is not None
    assert other.held_out_error == pytest.approx(0.99, abs=0.01)


def test_a_pause_is_predicted_without_itself() -> None:
    """As many terms as samples, nearly: they explain all that they were fitted to, and nothing else."""
    samples = measured(3, noise=0.2)
    few = [sample for sample in samples.switches if sample.from_degree == 1][2:21:4]
    profile = fitted(replace(samples, switches=few))
    within = [
        abs(
            switch_seconds(
                profile,
                1,
                2,
                requests=sample.requests,
                migrated_requests=sample.migrated_requests,
                migrated_tokens=sample.num_bytes // KV_BYTES,
                recomputed_tokens=sample.recomputed_tokens,
            )
            / sample.seconds
            - 1
        )
        for sample in few
    ]
    assert profile.switch[1, 2].relative_error_p90 > 1.5 * max(within)


def test_points_off_the_grid_are_compared_at_their_own_place() -> None:
    profile = fitted(measured())
    away = [
        StepSample(degree=2, batch=6, context_tokens=2500.0, busy_groups=1, seconds=true_seconds(2, 6, 2500)),
        StepSample(degree=1, batch=2, context_tokens=700.5, busy_groups=1, seconds=true_seconds(1, 2, 700.5)),
    ]
    assert held_out_errors(profile, [[sample] for sample in away]) == pytest.approx((0.0, 0.0), abs=1e-4)
    with pytest.raises(ValueError, match=r"^steps: no sample"):
        held_out_errors(profile, [[]])


def test_a_recomputed_token_that_was_never_measured_costs_a_prefill() -> None:
    samples = measured()
    migrated = [sample for sample in samples.switches if not sample.recomputed_tokens]
    profile = fitted(replace(samples, switches=migrated))
    for (_, degree), terms in profile.switch.items():
        assert terms.recomputed_token_seconds == profile.prefill[degree].token_seconds
        assert terms.most_recomputed_tokens == 0
        # Every request migrated, so it cannot be separated from what any request costs.
        assert terms.migrated_request_seconds == 0
        assert terms.request_seconds == pytest.approx(0.005)


def broken(kind: str) -> tuple[Samples, dict[str, Any]]:
    samples = measured()
    steps, prefills, switches = samples.steps, samples.prefills, samples.switches
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "few": ({"steps": [*steps[:5], *steps[20:]]}, {}),
        "zero": ({"steps": [steps[0], replace(steps[1], seconds=0.0)]}, {}),
        "nan": ({"switches": [replace(switches[0], seconds=float("nan"))]}, {}),
        "degree": ({"steps": [sample for sample in steps if sample.degree == 1]}, {}),
        "hole": ({"steps": [s for s in steps if not (s.batch == 2 and s.context_tokens < 300)]}, {}),
        "prefills": ({"prefills": prefills[:13]}, {}),
        "flat": ({"prefills": [replace(sample, seconds=0.1) for sample in prefills]}, {}),
        "switches": ({"switches": switches[:4]}, {}),
        "unmoved": ({"switches": [replace(sample, num_bytes=0) for sample in switches]}, {}),
        "foreign": ({"switches": [replace(sample, to_degree=8) for sample in switches]}, {}),
        "contexts": ({}, {"contexts": ()}),
    }
    samples_fields, fields = changes[kind]
    return replace(samples, **samples_fields), fields


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("few", r"^steps: 4 samples of \{'degree': 1, .*'context_tokens': 256\} besides those held out"),
        ("zero", r"^steps\[1\]\.seconds: 0\.0 is not"),
        ("nan", r"^switches\[0\]\.seconds: nan"),
        ("degree", r"^cells: none of degree 2"),
        ("hole", r"^cells: missing: degree 1, busy_groups 1, batch 2, context_tokens 256"),
        ("prefills", r"^prefills: degree 2: 1 samples; at least 5"),
        ("flat", r"^prefills: degree 1: more tokens took no more time"),
        ("switches", r"^switches: 1->2: 4 samples; at least 5"),
        ("unmoved", r"^switches: 1->2: no sample moved a request and its bytes"),
        ("foreign", r"^switches: 1->8: 8 is not among the degrees"),
        ("contexts", r"^contexts: "),
    ],
)
def test_samples_that_give_no_profile_are_refused(kind: str, problem: str) -> None:
    samples, fields = broken(kind)
    with pytest.raises(ValueError, match=problem):
        fitted(samples, **fields)


def test_a_cell_needs_more_until_its_interval_is_narrow() -> None:
    assert needs_more([])
    assert needs_more([0.1] * (MIN_SAMPLES - 1))
    assert not needs_more([0.1] * MIN_SAMPLES)
    wide = [0.1, 0.2] * 50
    assert needs_more(wide)
    assert not needs_more(wide * 2)
    assert len(wide * 2) == MAX_SAMPLES
    assert not needs_more([*[0.1] * 20, 5.0, 5.0])


@given(st.lists(st.floats(0.01, 1.0), min_size=MIN_SAMPLES, max_size=60))
def test_whether_a_cell_needs_more_does_not_hang_on_the_unit(samples: list[float]) -> None:
    assert needs_more(samples) == needs_more([1024 * seconds for seconds in samples])
