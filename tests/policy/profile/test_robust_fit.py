import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile.robust_fit import median_and_half_width, nonnegative_terms, p90


@given(st.lists(st.floats(0.001, 1000), min_size=6, max_size=200))
def test_the_median_lies_among_the_samples_and_blind_to_their_order(samples: list[float]) -> None:
    median, half_width = median_and_half_width(samples)
    assert median == pytest.approx(statistics.median(samples))
    assert 0 <= half_width <= max(samples) - min(samples)
    assert median_and_half_width(samples[::-1]) == (median, half_width)


@pytest.mark.parametrize(("count", "skipped"), [(6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (100, 39)])
def test_the_interval_is_that_of_the_tables(count: int, skipped: int) -> None:
    """Order statistics of the sign test at 5 %, two-sided (Conover, table A3)."""
    samples = [float(number) for number in range(count)]
    middle = (count - 1) / 2
    assert median_and_half_width(samples) == (middle, middle - skipped)


@pytest.mark.parametrize("count", [6, 12, 25, 60])
def test_the_interval_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(count)
    held = 0
    for _ in range(1500):
        median, half_width = median_and_half_width(list(random.lognormal(0.0, 1.0, count)))
        held += abs(median - 1.0) <= half_width
    assert held / 1500 >= 0.94


def test_few_samples_have_no_interval() -> None:
    with pytest.raises(ValueError, match=r"^5 samples; the interval of a median needs 6"):
        median_and_half_width([1.0] * 5)


truths = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 20.0]), min_size=4, max_size=4).filter(any)


@given(truths, st.integers(0, 2**32 - 1), st.booleans())
def test_exact_samples_give_their_terms_back(truth: list[float], seed: int, spoilt: bool) -> None:
    random = np.random.default_rng(seed)
    scales = np.array([1.0, 10.0, 1e9, 1e4])
    terms = np.array(truth) / scales
    amounts = random.uniform(0.2, 1.0, (60, 4)) * scales
    amounts[:, 0] = 1.0
    seconds = amounts @ terms
    if spoilt:
        seconds[::10] *= 5
    assert nonnegative_terms(amounts, seconds) * scales == pytest.approx(truth, abs=2e-3, rel=2e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_no_term_is_negative(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    terms = nonnegative_terms(random.uniform(0, 10, (count, 4)), random.uniform(0.01, 5, count))
    assert (terms >= 0).all()
    assert np.isfinite(terms).all()


def test_of_collinear_features_the_first_gets_the_weight() -> None:
    amounts = np.array([[1.0, number, 1000.0 * number, 0.0] for number in range(1, 9)])
    assert nonnegative_terms(amounts, 2.0 * amounts[:, 1]).tolist() == pytest.approx([0, 2, 0, 0])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_seconds_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^seconds: "):
        nonnegative_terms(np.ones((2, 1)), np.array([1.0, bad]))


def test_the_p90_is_one_of_the_errors() -> None:
    assert p90(np.arange(10.0)) == 8.0
    assert p90(np.arange(5.0)) == 4.0
    assert p90(np.array([3.0])) == 3.0
