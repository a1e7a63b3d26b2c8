"""The lengths a job has shown so far: what a forecast knows besides the live requests.

Lengths of the present stage are kept as they come. When the next stage starts they become
part of the past: a pool of lengths that fades with age, and, of each prompt, how its
lengths stood in the job, as a mean normal score. Scores last longer than lengths: the job's
lengths grow in training, while a hard prompt stays a hard one. The past never changes
within a stage; that is what makes forecasts comparable from one moment to the next.

Two correlations of normal scores are learned by moments, and begin at a prior: that of two
samples of a prompt in one stage, and that of a prompt's level between two of its stages.

Invariants (asserted by `tests/policy/forecast/test_lengths.py`):
- no more than `MAX_LENGTHS` lengths and `MAX_PROMPTS` prompts are kept, the youngest;
- blind to the order in which the requests of a stage finished;
- with enough stages the correlations are those of the requests.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray, IntArray

MAX_LENGTHS: Final = 16_384
MAX_PROMPTS: Final = 65_536

# A length counts half as much once this many stages, and this many lengths, have followed it.
HALF_LIFE_STAGES: Final = 4
HALF_LIFE_LENGTHS: Final = 1_024

# What is assumed before the job has shown it, and how many independent pairs of samples that is worth.
PRIOR_CORRELATION: Final = 0.3
PRIOR_PERSISTENCE: Final = 0.8
PRIOR_PAIRS: Final = 30.0
MAX_CORRELATION: Final = 0.9

SCORES: Final = np.linspace(-6.0, 6.0, 2_401)
"""The grid on which the normal distribution is tabulated: `CDF` is exact there (`math.erfc`)."""
CDF: Final = np.array([0.5 * math.erfc(-score / math.sqrt(2.0)) for score in SCORES])


def normal_scores(probabilities: FloatArray) -> FloatArray:
    """The standard normal quantiles of `probabilities`, within [-6, 6]; error below 1e-5 within [-5, 5]."""
    scores: FloatArray = np.interp(probabilities, CDF, SCORES)
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLevel:
    """How a prompt's samples stood in its last stage: their mean normal score and their number."""

    mean_score: float
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastLengths:
    """The lengths of the stages before the present one. A value; compared and hashed by identity.

    tokens: ascending [num]
    weights: of each length, 1 for the youngest stage, less for older ones [num]
    correlation: of the normal scores of two samples of a prompt in one stage
    persistence: correlation of a prompt's level in one stage with that in its next
    """

    tokens: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    weights: FloatArray = field(default_factory=lambda: np.empty(0))
    correlation: float = PRIOR_CORRELATION
    persistence: float = PRIOR_PERSISTENCE


class LengthHistory:
    """The lengths of a job, stage by stage; memory is bounded. Not thread-safe.

    finished: by prompt, the lengths of the requests of this stage that have ended
    past: the stages before this one; the same object until the next stage starts
    """

    def __init__(self) -> None:
        self.finished: dict[str, list[int]] = {}
        self._num_finished = 0
        self._stages: deque[IntArray] = deque()  # youngest first
        self._levels: OrderedDict[str, PromptLevel] = OrderedDict()  # youngest last
        self.past = PastLengths()
        self._moments = _Moments()

    def start_stage(self) -> None:
        """Begin a generation stage; what has finished so far becomes the past."""
        if self.finished:
            self._close_stage()

    def add_finished(self, prompt: str, tokens: int) -> None:
        """Take a request of the present stage that has ended after `tokens` response tokens.

        `prompt` is the digest that its siblings share. Raises `ValueError` for fewer than one token.
        """
        if tokens < 1:
            raise ValueError(f"tokens: {tokens} is not 1 or more")
        self.finished.setdefault(prompt, []).append(tokens)
        self._num_finished += 1
        if self._num_finished > MAX_LENGTHS:
            self._forget_finished()

    def level(self, prompt: str) -> PromptLevel | None:
        """How the prompt's samples stood in its last stage before this one; None if it had none."""
        return self._levels.get(prompt)

    def _close_stage(self) -> None:
        prompts = sorted(self.finished)
        stage = np.array([tokens for prompt in prompts for tokens in sorted(self.finished[prompt])], np.int64)
        counts = np.array([len(self.finished[prompt]) for prompt in prompts])
        self._stages.appendleft(stage)
        self.finished, self._num_finished = {}, 0
        self._trim_stages()
        half_life = max(HALF_LIFE_LENGTHS, HALF_LIFE_STAGES * len(stage))
        tokens, weights = _pool(self._stages, half_life)
        self._moments.fade(0.5 ** (len(stage) / half_life))
        self._learn_levels(prompts, counts, _scores_within(tokens, weights, stage))
        # Two digits are what it is worth, and tables that hang on it serve many stages.
        correlation = round(self._moments.correlation(), 2)
        self.past = PastLengths(
            tokens=tokens,
            weights=weights,
            correlation=correlation,
            persistence=self._moments.persistence(correlation),
        )

    def _forget_finished(self) -> None:
        prompt = next(iter(self.finished))
        self.finished[prompt].pop(0)
        self._num_finished -= 1
        if not self.finished[prompt]:
            del self.finished[prompt]

    def _trim_stages(self) -> None:
        surplus = sum(map(len, self._stages)) - MAX_LENGTHS
        while surplus > 0:
            oldest = self._stages.pop()
            surplus -= len(oldest)

    def _learn_levels(self, prompts: Sequence[str], counts: IntArray, scores: FloatArray) -> None:
        """Moments, then the new level, of each prompt, whose scores lie one prompt after another."""
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(scores, starts)
        squares = np.add.reduceat(scores**2, starts)
        self._moments.add_samples(sums, squares, counts)
        for name, total, count in zip(prompts, sums.tolist(), counts.tolist(), strict=True):
            level = PromptLevel(mean_score=total / count, num_samples=count)
            before = self._levels.pop(name, None)
            if before is not None:
                self._moments.add_levels(before, level)
            self._levels[name] = level
        while len(self._levels) > MAX_PROMPTS:
            self._levels.popitem(last=False)


class _Moments:
    """Running sums of products of normal scores: of samples with themselves, siblings, and earlier stages."""

    def __init__(self) -> None:
        self._square = self._squares = 0.0
        self._pair = self._pairs = 0.0
        self._level = self._levels = 0.0

    def fade(self, factor: float) -> None:
        self._square, self._squares = self._square * factor, self._squares * factor
        self._pair, self._pairs = self._pair * factor, self._pairs * factor
        self._level, self._levels = self._level * factor, self._levels * factor

    def add_samples(self, sums: FloatArray, squares: FloatArray, counts: IntArray) -> None:
        self._square += float(squares.sum())
        self._squares += float(counts.sum())
        several = counts > 1
        total, square, count = sums[several], squares[several], counts[several]
        # The mean product of two siblings. n samples hold n(n - 1)/2 pairs, which are not independent:
        # they are counted as n - 1.
        product = (total**2 - square) / (count * (count - 1))
        self._pair += float((product * (count - 1)).sum())
        self._pairs += float((count - 1).sum())

    def add_levels(self, before: PromptLevel, after: PromptLevel) -> None:
        weight = min(before.num_samples, after.num_samples)
        self._level += weight * before.mean_score * after.mean_score
        self._levels += weight

    def correlation(self) -> float:
        found = self._pair / self._variance()
        shrunk = (found + PRIOR_PAIRS * PRIOR_CORRELATION) / (self._pairs + PRIOR_PAIRS)
        return min(max(shrunk, 0.0), MAX_CORRELATION)

    def persistence(self, correlation: float) -> float:
        """Two samples of one prompt in different stages correlate with `persistence * correlation`."""
        if correlation <= 0.0:
            return PRIOR_PERSISTENCE
        found = self._level / self._variance() / correlation
        shrunk = (found + PRIOR_PAIRS * PRIOR_PERSISTENCE) / (self._levels + PRIOR_PAIRS)
        return min(max(shrunk, 0.0), MAX_CORRELATION)

    def _variance(self) -> float:
        """Of the scores: below 1 where many lengths are equal (the cap); 1 where nothing varies."""
        return self._square / self._squares if self._square > 0.0 else 1.0


def _pool(stages: Collection[IntArray], half_life: int) -> tuple[IntArray, FloatArray]:
    """All lengths, ascending, and their weights. `stages` are youngest first."""
    sizes = np.array([len(stage) for stage in stages])
    younger = np.cumsum(sizes) - sizes
    weights = np.repeat(0.5 ** (younger / half_life), sizes)
    tokens = np.concatenate(list(stages))
    order = np.lexsort((weights, tokens))
    return tokens[order], weights[order]


def _scores_within(tokens: IntArray, weights: FloatArray, stage: IntArray) -> FloatArray:
    """Normal scores of the lengths of `stage` by their mid-rank among all (ascending) `tokens`."""
    below = np.concatenate(([0.0], np.cumsum(weights)))
    first, last = np.searchsorted(tokens, stage, "left"), np.searchsorted(tokens, stage, "right")
    return normal_scores((below[first] + below[last]) / (2.0 * below[-1]))
