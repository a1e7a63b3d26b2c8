"""A job's way for the KV cache, for one switch and afterwards."""

from __future__ import annotations

import dataclasses

import pytest

from taper_policy.profile.estimated import h100_8b
from taper_rollout.switching.kv_mode import kv_mode, kv_reported

from .test_figures import RANK


def test_auto_goes_by_the_costs_of_the_pair() -> None:
    assert kv_mode("auto", h100_8b(), 1, 4) == h100_8b().kv_costs(1, 4)


def test_without_costs_auto_migrates() -> None:
    assert kv_mode("auto", None, 1, 2) == "migrate"
    assert kv_mode("auto", h100_8b(), 1, 16) == "migrate"


@pytest.mark.parametrize("asked", ["migrate", "recompute"])
def test_what_is_asked_holds_whatever_it_costs(asked: str) -> None:
    assert kv_mode(asked, h100_8b(), 1, 4) == asked


@pytest.mark.parametrize(
    ("migrated", "recomputed", "reported"),
    [(3, 0, "migrate"), (0, 2, "recompute"), (3, 2, "mixed"), (0, 0, "auto")],
)
def test_what_happened_to_the_kv_is_reported(migrated: int, recomputed: int, reported: str) -> None:
    figures = dataclasses.replace(RANK, migrated_requests=migrated, recomputed_requests=recomputed)
    assert kv_reported("auto", figures) == reported


def test_a_switch_that_was_not_made_reports_what_was_asked() -> None:
    assert kv_reported("recompute", None) == "recompute"
