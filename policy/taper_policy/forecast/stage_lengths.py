"""What a stage has shown of its lengths so far, as arrays: the live requests and the ended ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from taper_policy.arrays import IntArray
from taper_policy.forecast.lengths import LengthHistory, PastLengths
from taper_policy.forecast.survivors import NUM_FOLDS, SurvivorCurves, survivor_curves


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLengths:
    """The requests of a stage as arrays, sorted by prompt, then by decoded tokens.

    order: index, among the live requests as given, of each live request here [num_live]
    live_prompts: index into `prompts` of each live request, ascending [num_live]
    decoded_tokens: of each live request [num_live]
    prompts, folds: digest and fold of each prompt of the live requests [num_prompts]
    ended_prompts: the prompt of each request that has ended; -1 where none of its siblings live [num_ended]
    ended_folds, ended_tokens: of those [num_ended]
    """

    order: IntArray
    live_prompts: IntArray
    decoded_tokens: IntArray
    prompts: list[str]
    folds: IntArray
    ended_prompts: IntArray
    ended_folds: IntArray
    ended_tokens: IntArray

    @classmethod
    def of(
        cls, prompts_of: Sequence[str], decoded_tokens: Sequence[int], history: LengthHistory, max_tokens: int
    ) -> StageLengths:
        ended = history.finished
        fold_of = {prompt: crc32(prompt.encode()) % NUM_FOLDS for prompt in {*prompts_of, *ended}}
        prompts = sorted(set(prompts_of))
        index = {prompt: number for number, prompt in enumerate(prompts)}
        placed, decoded = np.array([index[prompt] for prompt in prompts_of]), np.array(decoded_tokens)
        order = np.lexsort((decoded, placed))
        num_ended = [len(lengths) for lengths in ended.values()]
        ended_tokens = np.array(
            [tokens for lengths in ended.values() for tokens in sorted(lengths)], np.int64
        )
        return cls(
            order=order,
            live_prompts=placed[order],
            decoded_tokens=decoded[order],
            prompts=prompts,
            folds=np.array([fold_of[prompt] for prompt in prompts]),
            ended_prompts=np.repeat(
                np.array([index.get(prompt, -1) for prompt in ended], np.int64), num_ended
            ),
            ended_folds=np.repeat(np.array([fold_of[prompt] for prompt in ended], np.int64), num_ended),
            ended_tokens=np.minimum(ended_tokens, max_tokens),
        )

    def curves(self, past: PastLengths, max_tokens: int) -> SurvivorCurves:
        """The job's survivor curves, from the past and from this stage."""
        num_live, num_ended = len(self.order), len(self.ended_tokens)
        return survivor_curves(
            past,
            np.concatenate((self.decoded_tokens + 1, self.ended_tokens)),
            np.concatenate((self.folds[self.live_prompts], self.ended_folds)),
            np.repeat((False, True), (num_live, num_ended)),
            max_tokens=max_tokens,
        )
