import numpy as np
import pytest

from taper_policy.forecast import lengths
from taper_policy.forecast.lengths import LengthHistory, normal_scores


def job(correlation: float, persistence: float, *, stages: int = 8, prompts: int = 200) -> LengthHistory:
    """Every prompt in every stage, six samples each; its level wanders from stage to stage."""
    random = np.random.default_rng(4)
    history = LengthHistory()
    level = random.normal(size=(prompts, 1))
    for _ in range(stages + 1):
        history.start_stage()
        noise = random.normal(size=(prompts, 6))
        scores = np.sqrt(correlation) * level + np.sqrt(1 - correlation) * noise
        for (prompt, _), score in np.ndenumerate(scores):
            history.add_finished(f"p{prompt}", int(np.exp(7.0 + score)))
        level = persistence * level + np.sqrt(1 - persistence**2) * random.normal(size=(prompts, 1))
    return history


@pytest.mark.parametrize(("correlation", "persistence"), [(0.5, 0.7), (0.2, 0.9), (0.0, 0.5)])
def test_correlations_are_learned(correlation: float, persistence: float) -> None:
    past = job(correlation, persistence).past
    assert past.correlation == pytest.approx(correlation, abs=0.05)
    if correlation:
        assert past.persistence == pytest.approx(persistence, abs=0.1)


def test_with_little_data_they_stay_near_the_prior() -> None:
    history = LengthHistory()
    history.start_stage()
    for prompt, tokens in (("a", 10), ("a", 11), ("b", 90), ("b", 91)):
        history.add_finished(prompt, tokens)
    history.start_stage()
    assert history.past.correlation == pytest.approx(lengths.PRIOR_CORRELATION, abs=0.06)
    assert history.past.persistence == lengths.PRIOR_PERSISTENCE


def test_memory_is_bounded_and_the_youngest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "MAX_LENGTHS", 50)
    monkeypatch.setattr(lengths, "MAX_PROMPTS", 30)
    history = LengthHistory()
    for step in range(5):
        history.start_stage()
        for sample in range(20):
            history.add_finished(f"{step}-{sample}", 100 * step + 1)
    assert len(history.past.tokens) <= 50
    assert len(history.finished) == 20
    levels = [history.level(f"{step}-{sample}") for step in range(5) for sample in range(20)]
    assert sum(level is not None for level in levels) == 30
    assert set(history.past.tokens.tolist()) == {201, 301}
    assert history.level("3-0") is not None
    assert history.level("0-0") is None


def test_one_endless_stage_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "MAX_LENGTHS", 10)
    history = LengthHistory()
    history.start_stage()
    for tokens in range(1, 41):
        history.add_finished(f"p{tokens % 3}", tokens)
    assert sum(map(len, history.finished.values())) == 10
    assert sum(map(len, history.finished.values())) == 10


def test_older_lengths_weigh_less() -> None:
    history = LengthHistory()
    for step in range(3):
        history.start_stage()
        for _ in range(lengths.HALF_LIFE_LENGTHS):
            history.add_finished("p", step + 1)
    history.start_stage()
    weights = dict(zip(history.past.tokens.tolist(), history.past.weights.tolist(), strict=True))
    assert weights[3] == 1.0
    assert weights[2] == pytest.approx(0.5 ** (1 / lengths.HALF_LIFE_STAGES))
    assert weights[1] == pytest.approx(0.5 ** (2 / lengths.HALF_LIFE_STAGES))


def test_the_past_never_changes_within_a_stage() -> None:
    history = job(0.3, 0.8, stages=1, prompts=10)
    before = history.past
    history.add_finished("p1", 77)
    assert history.past is before
    assert history.level("p1") is not None


def test_normal_scores_are_the_inverse_of_the_normal_distribution() -> None:
    # Quantiles from tables of the normal distribution.
    known = {0.5: 0.0, 0.975: 1.959964, 0.001: -3.090232, 0.999999: 4.753424}
    assert normal_scores(np.array(list(known))) == pytest.approx(list(known.values()), abs=2e-5)


@pytest.mark.parametrize("tokens", [0, -4])
def test_a_response_without_a_token_is_refused(tokens: int) -> None:
    history = LengthHistory()
    history.start_stage()
    with pytest.raises(ValueError, match=f"tokens: {tokens}"):
        history.add_finished("p", tokens)
