import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.arrays import BoolArray, IntArray
from taper_policy.forecast.lengths import CDF, SCORES, LengthHistory, PastLengths
from taper_policy.forecast.survivors import NUM_FOLDS, SurvivorCurves, survivor_curves

MAX_TOKENS = 2_000


def observed(
    tokens: list[int], folds: list[int], has_ended: list[bool]
) -> tuple[IntArray, IntArray, BoolArray]:
    return np.array(tokens, np.int64), np.array(folds, np.int64), np.array(has_ended, bool)


def share_below(curves: SurvivorCurves, position: float, fold: int = 0) -> float:
    score = curves.scores(np.array([position]), np.array([fold]))
    return float(np.interp(score, SCORES, CDF)[0])


def past_of(lengths: np.ndarray) -> PastLengths:
    history = LengthHistory()
    history.start_stage()
    for tokens in lengths.tolist():
        history.add_finished("p", tokens)
    history.start_stage()
    return history.past


samples = st.lists(
    st.tuples(st.integers(1, MAX_TOKENS), st.integers(0, NUM_FOLDS - 1), st.booleans()),
    min_size=1,
    max_size=30,
)


def test_with_many_lengths_the_curve_is_the_empirical_one() -> None:
    lengths = np.random.default_rng(2).gamma(2.0, 300.0, 4_000).astype(int).clip(1, MAX_TOKENS)
    curves = survivor_curves(past_of(lengths), *observed([], [], []), max_tokens=MAX_TOKENS)
    for position in (50, 200, 431, 900, 1_500, MAX_TOKENS):
        assert share_below(curves, position) == pytest.approx(np.mean(lengths < position), abs=0.005)


def test_live_requests_count_as_longer_than_not_as_short() -> None:
    # Of 400 requests, 100 ended at 500 and 300 went on to 600: of the latter 100 ended at 1,000.
    tokens, ended = [500] * 100 + [1_000] * 100 + [600] * 200, [True] * 200 + [False] * 200
    curves = survivor_curves(PastLengths(), *observed(tokens, [1] * 400, ended), max_tokens=MAX_TOKENS)
    assert share_below(curves, 590) == pytest.approx(0.25, abs=0.03)
    # All that were seen beyond 600 ended by 1,000; but for the prior, so will the rest.
    assert share_below(curves, 1_100) > 0.95


def test_the_cap_is_an_atom() -> None:
    lengths = np.array([100] * 300 + [MAX_TOKENS] * 100)
    curves = survivor_curves(past_of(lengths), *observed([], [], []), max_tokens=MAX_TOKENS)
    assert share_below(curves, MAX_TOKENS) == pytest.approx(0.75, abs=0.01)
    assert curves.positions(np.array([[0.7, 3.0]]), np.array([0])) == pytest.approx(MAX_TOKENS)


@given(samples, st.data())
def test_a_request_that_lives_on_raises_the_other_folds_and_leaves_its_own(
    rows: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    tokens, folds, ended = (list(column) for column in zip(*rows, strict=True))
    index = data.draw(st.integers(0, len(rows) - 1))
    ended[index] = False
    before = survivor_curves(PastLengths(), *observed(tokens, folds, ended), max_tokens=MAX_TOKENS)
    tokens[index] = data.draw(st.integers(tokens[index], MAX_TOKENS))
    after = survivor_curves(PastLengths(), *observed(tokens, folds, ended), max_tokens=MAX_TOKENS)
    assert (after.scores_at <= before.scores_at + 1e-9).all()
    assert (after.scores_at[folds[index]] == before.scores_at[folds[index]]).all()


@given(samples)
def test_positions_are_the_inverse_of_scores(rows: list[tuple[int, int, bool]]) -> None:
    tokens, folds, ended = zip(*rows, strict=True)
    given_rows = observed(list(tokens), list(folds), list(ended))
    curves = survivor_curves(PastLengths(), *given_rows, max_tokens=MAX_TOKENS)
    assert (np.diff(curves.scores_at, axis=1) > 0).all()
    fold = np.arange(NUM_FOLDS)
    scores = np.linspace(-3.5, 3.5, 50)
    positions = curves.positions(np.tile(scores, (NUM_FOLDS, 1)), fold)
    for row, number in zip(positions, fold, strict=True):
        back = curves.scores(row, np.full(len(row), number))
        assert back == pytest.approx(np.minimum(scores, curves.scores_at[number, -1]), abs=0.011)


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_tiny_cap_works(max_tokens: int) -> None:
    curves = survivor_curves(PastLengths(), *observed([1], [0], [True]), max_tokens=max_tokens)
    positions = curves.positions(np.array([[-4.0, 0.0, 4.0]]), np.array([1]))
    assert (positions >= 1).all()
    assert (positions <= max_tokens).all()


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        survivor_curves(PastLengths(), *observed([], [], []), max_tokens=9).edges = np.ones(1)  # type: ignore[misc]
