from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile.estimated import h100_8b
from taper_policy.profile.kv_choice import KV_MODES, HeldKv, choose_recomputed
from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.step_surface import StepCell

from .kv_pause import kv_pause_seconds
from .switch_model import switch_seconds

KEY = ProfileKey(model="m", device="CPU", dtype="float32", versions={"sglang": "1"})
WIDEN = SwitchTerms(
    fixed_seconds=0.01,
    request_seconds=0.002,
    exchange_seconds=0.003,
    migrated_request_seconds=0.001,
    byte_seconds=1e-8,
    recomputed_token_seconds=1e-4,
    relative_error_p90=0.1,
    most_requests=10,
    most_bytes=10_000_000,
    most_recomputed_tokens=500,
)
PREFILL = PrefillTerms(fixed_seconds=0.01, token_seconds=1e-4, relative_error_p90=0.1)


def profile(**fields: Any) -> Profile:
    cells = tuple(
        StepCell(
            degree=degree,
            batch=batch,
            context_tokens=context,
            busy_groups=1,
            seconds=(0.01 + 0.001 * batch + 1e-6 * context) / degree,
            half_width_seconds=0.0002,
            num_samples=20,
        )
        for degree in (1, 2)
        for batch in (1, 4)
        for context in (100, 1000)
    )
    known: dict[str, Any] = {
        "key": KEY,
        "footprint": 2,
        "degrees": (1, 2),
        "kv_bytes_per_token": 1000,
        "cells": cells,
        "prefill": {1: PREFILL, 2: PREFILL},
        "switch": {(1, 2): WIDEN},
        "held_out_error": 0.02,
        "held_out_cell_error": 0.01,
        "held_out_share": 0.2,
        "made_at": "2026-11-21T12:00:00+00:00",
    }
    return Profile(**known | fields)


def test_a_step_is_that_of_its_degree() -> None:
    assert profile().steps(2).seconds(4, 1000) == pytest.approx(0.0075)


def test_a_prefill_has_its_rate() -> None:
    assert profile().prefill_seconds(1, 100) == pytest.approx(0.02)


def test_pauses_of_many_points_are_those_of_each_and_of_the_cheaper_way() -> None:
    requests, tokens = np.array([0, 3, 3, 10]), np.array([0, 10, 500, 9000])
    alone = [
        min(
            switch_seconds(profile(), 1, 2, requests=r, **way)
            for way in (
                {"migrated_requests": r, "migrated_tokens": t, "recomputed_tokens": 0},
                {"migrated_requests": 0, "migrated_tokens": 0, "recomputed_tokens": t},
            )
        )
        for r, t in zip(requests.tolist(), tokens.tolist(), strict=True)
    ]
    assert profile().pause_seconds(1, 2, requests, tokens).tolist() == pytest.approx(alone)


def test_a_job_that_asks_for_one_way_prices_that() -> None:
    ways = {kv: profile(kv=kv).pause_seconds(1, 2, 3, 500).item() for kv in KV_MODES}
    assert ways["migrate"] == pytest.approx(0.01 + 0.006 + 0.003 + 0.003 + 0.005)
    assert ways["recompute"] == pytest.approx(0.01 + 0.006 + 0.05)
    assert ways["auto"] == ways["migrate"]


live_requests = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5000)), max_size=10)


@given(live_requests, st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(0, 1e-8), st.floats(0, 1e-4))
def test_a_choice_per_request_takes_no_more_than_the_pause_of_the_totals(
    live: list[tuple[int, int]], exchange: float, migrated: float, byte: float, recomputed: float
) -> None:
    terms = replace(
        WIDEN,
        exchange_seconds=exchange,
        migrated_request_seconds=migrated,
        byte_seconds=byte,
        recomputed_token_seconds=recomputed,
    )
    asked = profile(switch={(1, 2): terms})
    held = [HeldKv(f"r{index}", group, tokens) for index, (group, tokens) in enumerate(live)]
    costs = asked.kv_costs(1, 2)
    chosen = kv_pause_seconds(held, choose_recomputed(held, costs), costs)
    same_for_all = terms.fixed_seconds + len(held) * terms.request_seconds
    pause = float(asked.pause_seconds(1, 2, len(held), sum(tokens for _, tokens in live)))
    assert same_for_all + chosen <= pause * (1 + 1e-9)


amounts = st.tuples(st.integers(0, 500), st.integers(0, 10**7))


@given(amounts, amounts, st.sampled_from([(1, 2), (8, 1), (2, 8)]), st.sampled_from(KV_MODES))
def test_a_switch_never_takes_less_with_more(
    one: tuple[int, int], two: tuple[int, int], pair: tuple[int, int], kv: str
) -> None:
    asked = replace(H100, kv=kv)

    def seconds(requests: int, tokens: int) -> float:
        return float(asked.pause_seconds(*pair, requests, tokens))

    more = [max(both) for both in zip(one, two, strict=True)]
    assert seconds(*more) >= max(seconds(*one), seconds(*two)) >= 0


@given(st.sampled_from((1, 2, 4, 8)), st.floats(0, 2000), st.floats(0, 200_000), st.data())
def test_no_step_is_negative(degree: int, batch: float, context: float, data: st.DataObject) -> None:
    assert H100.steps(degree).seconds(batch, context, data.draw(st.integers(1, 8 // degree))) >= 0


H100 = h100_8b()


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda: profile().steps(4), "^degree: 4 "),
        (lambda: profile().prefill_seconds(4, 1), "^degree: 4 "),
        (lambda: profile().prefill_seconds(1, -1), "^tokens: -1 "),
        (lambda: profile().pause_seconds(2, 1, 1, 1), "^switch.2->1: not in the profile, which has 1->2"),
        (lambda: profile().pause_seconds(1, 2, -1, 1), "^requests: -1"),
        (lambda: profile().pause_seconds(1, 2, 1, -1), "^bytes: -1000"),
    ],
)
def test_what_is_not_known_is_refused(ask: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ask()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"key": replace(KEY, device="")}, r"^key\.device: is empty"),
        ({"key": replace(KEY, versions={"sglang": ""})}, r"^key\.versions\.sglang: is empty"),
        ({"footprint": 3}, "^footprint: 3 "),
        ({"degrees": (1,)}, "^degrees: "),
        ({"degrees": (2, 1)}, r"^degrees\[1\]: 1 does not ascend"),
        ({"kv_bytes_per_token": 0}, "^kv_bytes_per_token: 0 "),
        ({"cells": ()}, "^cells: none of degree 1"),
        ({"prefill": {1: PREFILL}}, r"^prefill: has the degrees \[1\], not \[1, 2\]"),
        ({"prefill": {1: PREFILL, 2: replace(PREFILL, token_seconds=0.0)}}, r"^prefill\.2\.token_seconds: 0"),
        ({"switch": {(1, 4): WIDEN}}, "^switch.1->4: is no pair"),
        ({"switch": {(1, 1): WIDEN}}, "^switch.1->1: is no pair"),
        ({"switch": {(1, 2): replace(WIDEN, byte_seconds=-1.0)}}, r"^switch\.1->2\.byte_seconds: -1"),
        ({"switch": {(1, 2): replace(WIDEN, most_bytes=-1)}}, r"^switch\.1->2\.most_bytes: -1"),
        (
            {"switch": {(2, 1): SwitchTerms(**dict.fromkeys(list(SwitchTerms.__slots__)[:7], 0.0))}},  # type: ignore[arg-type]
            "^switch.2->1: a switch that takes no time",
        ),
        ({"held_out_error": None}, "^held_out_error: missing"),
        ({"held_out_cell_error": None}, "^held_out_cell_error: missing"),
        ({"held_out_error": float("nan")}, "^held_out_error: nan"),
        ({"kv": "copy"}, "^kv: 'copy' is not one of auto, migrate, recompute"),
        ({"held_out_share": 1.0}, "^held_out_share: 1.0"),
        ({"made_at": "yesterday"}, "^made_at: 'yesterday' is no ISO"),
        ({"made_at": "2026-11-21T12:00:00"}, "^made_at: .* lacks the time zone"),
    ],
)
def test_what_cannot_be_true_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        profile(**fields)


def test_an_estimated_profile_says_so() -> None:
    assert "ESTIMATED" in str(H100)
    assert "ESTIMATED" not in str(profile())
    assert "2.0%" in str(profile())
