"""Do the intervals hold what they promise? Jobs whose lengths are known, forecast stage after stage."""

from collections.abc import Callable

import numpy as np
import pytest

from taper_policy.forecast.forecast import PROBABILITIES, LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory

MAX_TOKENS = 24_576
PROMPTS, SAMPLES = 64, 8
WARM_STAGES, JUDGED_STAGES = 3, 40
MOMENTS = (0.0, 0.25, 0.5, 0.75, 0.9)

Lengths = Callable[[np.random.Generator], np.ndarray]


def log_normal(random: np.random.Generator) -> np.ndarray:
    return np.exp(random.normal(7.27, 1.41, (PROMPTS, SAMPLES)))


def siblings(random: np.random.Generator) -> np.ndarray:
    level = random.normal(0.0, np.sqrt(0.5), (PROMPTS, 1))
    return np.exp(7.27 + 1.41 * (level + random.normal(0.0, np.sqrt(0.5), (PROMPTS, SAMPLES))))


def bimodal(random: np.random.Generator) -> np.ndarray:
    short, long = random.normal(800, 120, (PROMPTS, SAMPLES)), random.normal(9_000, 1_500, (PROMPTS, SAMPLES))
    return np.where(random.random((PROMPTS, SAMPLES)) < 0.7, short, long)


def uniform(random: np.random.Generator) -> np.ndarray:
    return random.uniform(500, 8_000, (PROMPTS, SAMPLES))


def interval(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 90 % interval of each request, with equal tails; where the upper bound is the longest possible
    (the cap), the rest lies below the lower one."""
    low, low_at_cap, high = (
        np.array([np.interp(share, PROBABILITIES, row) for row in quantiles]) for share in (0.05, 0.1, 0.95)
    )
    return np.where(high >= quantiles[:, -1], low_at_cap, low), high


def coverage(
    lengths: Lengths, *, seed: int, first: int = WARM_STAGES, stages: int = JUDGED_STAGES
) -> np.ndarray:
    """The share of live requests inside their 90 % interval, at each of `MOMENTS`."""
    random = np.random.default_rng(seed)
    history = LengthHistory()
    inside, judged = np.zeros(len(MOMENTS)), np.zeros(len(MOMENTS))
    for step in range(first + stages):
        history.start_stage()
        tokens = np.clip(lengths(random), 1, MAX_TOKENS).astype(int)
        pending = {
            f"{prompt}-{sample}": (f"{step}-{prompt}", int(tokens[prompt, sample]))
            for prompt in range(PROMPTS)
            for sample in range(SAMPLES)
        }
        for index, share in enumerate(MOMENTS if step >= first else ()):
            # The moment at which a request ends: one chosen by lengths still to come would be a biased judge.
            now = int(np.quantile(tokens, share, method="lower")) if share else 0
            for rid, (prompt, length) in list(pending.items()):
                if length <= now:
                    history.add_finished(prompt, length)
                    del pending[rid]
            live = [
                LiveRequest(rid=rid, prompt=prompt, group=0, prompt_tokens=9, decoded_tokens=now)
                for rid, (prompt, _) in pending.items()
            ]
            low, high = interval(forecast(live, history, max_tokens=MAX_TOKENS).quantiles)
            remaining = np.array([length - now for _, length in pending.values()])
            inside[index] += np.count_nonzero((low <= remaining) & (remaining <= high))
            judged[index] += len(remaining)
        for prompt, length in pending.values():
            history.add_finished(prompt, length)
    return np.append(inside / judged, inside.sum() / judged.sum())


@pytest.mark.parametrize("lengths", [log_normal, bimodal, siblings, uniform])
def test_ninety_percent_intervals_hold_ninety_percent_on_stationary_jobs(lengths: Lengths) -> None:
    assert coverage(lengths, seed=20) == pytest.approx(0.9, abs=0.02)
