"""A live replica of two CPU ranks for benchmarks: it runs stages whose lengths are given in advance."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from parts.random_qwen3 import VOCABULARY
from taper_api.job.rollout_spec import RolloutSpec, Sampling, SwitchSpec
from taper_rollout.events import StageRecord
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.coordinator import Coordinator
from taper_rollout.replica.decider import Decider

SAMPLES = 8
# Scaled as the lengths are: published prompts have some hundred tokens at a cap of 24,576, here it is 256.
PROMPT_TOKENS = 4
FOOTPRINT, DEGREES = 2, (1, 2)
# Tokens that each request decodes beyond its context while a profile is measured.
PROFILED_TOKENS = 128


def replica_settings(
    model: str, *, dtype: str, requests: int, max_tokens: int, profile: Path | None, profiles: Path
) -> ReplicaSettings:
    """A replica with room for all `requests` of a stage at once in every layout, and to measure them."""
    context = PROMPT_TOKENS + max_tokens + 8 + PROFILED_TOKENS
    per_group = -(-requests // FOOTPRINT)
    return ReplicaSettings(
        rollout=RolloutSpec(
            footprint=FOOTPRINT,
            degrees=DEGREES,
            samples_per_prompt=SAMPLES,
            response_tokens=max_tokens,
            sampling=Sampling(seed=1),
            switch=SwitchSpec(timeout_seconds=60.0),
            kv_tokens=per_group * context,
            max_running_requests=per_group,
            profile=str(profile) if profile else None,
        ),
        model_path=model,
        dtype=dtype,
        context_tokens=context,
        trust_remote_code=False,
        device="cpu",
        replica=0,
        random_seed=1,
        host="127.0.0.1",
        profiles=str(profiles),
    )


class Replica:
    """Runs stages of given lengths on a live replica; `events`: where the coordinator's events go."""

    def __init__(self, coordinator: Coordinator, events: list[Any]) -> None:
        self.coordinator, self._events, self._step = coordinator, events, 0

    async def run(self, decider: Decider, tokens: np.ndarray[Any, Any]) -> StageRecord:
        """Run one stage of requests with `tokens` [prompts, samples] response tokens each.

        Raises `RuntimeError` for a response of another length.
        """
        self.coordinator.decisions = decider
        self._step += 1
        await self.coordinator.set_global_steps(self._step)
        await self.coordinator.clear_kv_cache()
        requests = [
            self.coordinator.generate(
                request_id=f"{self._step}-{prompt}-{sample}",
                prompt_ids=_prompt(self._step, prompt),
                sampling={
                    "temperature": 1.0,
                    "ignore_eos": True,
                    "max_new_tokens": int(tokens[prompt, sample]),
                },
                logprobs=True,
            )
            for prompt, sample in np.ndindex(*tokens.shape)
        ]
        responses = await asyncio.gather(*requests)
        made = [len(response.token_ids) for response in responses]
        if made != tokens.ravel().tolist():
            raise RuntimeError("a response does not have the requested length")
        await self.coordinator.set_global_steps(self._step + 1)
        return next(event for event in reversed(self._events) if isinstance(event, StageRecord))


def _prompt(step: int, prompt: int) -> list[int]:
    return [2 + (7 * step + 31 * prompt + 11 * k) % (VOCABULARY - 2) for k in range(PROMPT_TOKENS)]
