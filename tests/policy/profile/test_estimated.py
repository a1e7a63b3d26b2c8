import pytest

from taper_policy.profile.estimated import a40_14b, h100_8b
from taper_policy.profile.profile import Profile


@pytest.mark.parametrize("profile", [h100_8b(), a40_14b()], ids=str)
def test_it_is_whole_and_says_that_it_was_not_measured(profile: Profile) -> None:
    assert profile.is_estimated
    assert profile.degrees == (1, 2, 4, 8)
    assert len(profile.switch) == 12
    assert profile.held_out_error is None
    assert {cell.num_samples for cell in profile.cells} == {0}


def test_migration_takes_what_the_references_say_three_times_under_load() -> None:
    """16 requests of 16K tokens from TP 2 to TP 8: 11 ms on NVLink, 0.27 s on PCIe (8B, idle)."""
    num_bytes = 16 * 16384 * 128 * 1024
    assert h100_8b().switch[2, 8].byte_seconds * num_bytes == pytest.approx(3 * 0.011, rel=0.03)
    assert a40_14b().switch[2, 8].byte_seconds * num_bytes == pytest.approx(3 * 0.27, rel=0.03)


def test_recomputation_takes_what_was_published() -> None:
    tokens = 16 * 16384
    assert h100_8b().switch[2, 8].recomputed_token_seconds * tokens == pytest.approx(1.3)
    assert h100_8b().prefill[8].token_seconds * tokens == pytest.approx(1.3)
    assert a40_14b().switch[2, 8].recomputed_token_seconds * tokens == pytest.approx(8.8 * 14.8 / 8.03)


def test_a_batch_of_one_is_bound_by_the_weights() -> None:
    assert h100_8b().steps(1).seconds(1, 256) == pytest.approx(16.06e9 / 3.35e12, rel=0.02)
    assert a40_14b().steps(1).seconds(1, 256) == pytest.approx(29.6e9 / 696e9, rel=0.02)


@pytest.mark.parametrize("profile", [h100_8b(), a40_14b()], ids=str)
def test_a_wider_group_is_faster_but_not_by_its_ranks(profile: Profile) -> None:
    for narrow, wide in ((1, 2), (2, 4), (4, 8)):
        for batch, context in ((1, 1024), (16, 8192), (64, 1024)):
            before = profile.steps(narrow).seconds(batch, context)
            after = profile.steps(wide).seconds(batch, context)
            assert 0.5 < after / before < 1


def test_busy_groups_share_only_the_pcie_link() -> None:
    one, four = (h100_8b().steps(2).seconds(64, 1024, busy) for busy in (1, 4))
    assert one == four
    one, four = (a40_14b().steps(2).seconds(64, 1024, busy) for busy in (1, 4))
    assert four > one * 1.1


def test_what_does_not_fit_the_memory_is_left_out() -> None:
    places = {(cell.degree, cell.batch, cell.context_tokens) for cell in h100_8b().cells}
    assert (1, 128, 16384) not in places
    assert (8, 128, 16384) in places
