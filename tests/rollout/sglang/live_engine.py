"""A real engine for tests: stages of many requests, with switches at chosen moments."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from taper_policy.profile.kv_choice import KvCosts, KvMode
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.sglang.engine_settings import EngineSettings
from taper_rollout.shared_memory.rank_record import RankRecord
from taper_rollout.switching.figures import SwitchFigures

PROMPTS = [list(range(5 + i, 12 + 2 * i)) for i in range(7)]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 120, "ignore_eos": True}
# Some short, some long, no two with a common beginning. By `BY_LENGTH` the former are recomputed and the
# latter migrate, whatever the layout and however far the responses of `GREEDY` have come (up to 95 tokens).
MIXED_PROMPTS = [*PROMPTS[:4], *([5 + (50 + 3 * k + k // 7 + i) % 100 for k in range(800)] for i in range(3))]
BY_LENGTH = KvCosts(
    exchange_seconds=0.0,
    migrated_request_seconds=110.0,
    migrated_token_seconds=0.0,
    recomputed_token_seconds=1.0,
)
LOG_PROB_TOLERANCE = 1e-4
NOISE_ONLY = 1000.0
DEADLINE_SECONDS = 30.0
STAGE_SECONDS = 150.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchAt:
    """Switch to `degree` when the longest live response has `tokens` tokens."""

    tokens: int
    degree: int
    kv: KvMode = "migrate"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """The requests' outputs, in their order, and the figures and epoch of each switch."""

    outputs: list[dict[str, Any]]
    switches: list[SwitchFigures]
    epochs: list[int] = dataclasses.field(default_factory=list)

    @property
    def tokens(self) -> list[list[int]]:
        return [output["output_ids"] for output in self.outputs]

    @property
    def log_probs(self) -> list[list[float]]:
        return [[entry[0] for entry in o["meta_info"]["output_token_logprobs"]] for o in self.outputs]


class LiveEngine:
    """An `ElasticEngine` and the loop that it lives on, for tests that are plain functions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: EngineSettings) -> None:
        self.loop, self.settings = loop, settings
        self.engine = loop.run_until_complete(self._started(settings))
        self.epoch = 0

    @staticmethod
    async def _started(settings: EngineSettings) -> ElasticEngine:
        engine = ElasticEngine(settings)
        await engine.start()
        return engine

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.close())

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = STAGE_SECONDS) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, seconds))

    def command(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        return self.run(self.engine.command(name, **arguments))

    def call(self, function: str, **arguments: Any) -> list[dict[str, Any]]:
        """Run a function of `rank_plugins` in every rank."""
        return self.command("call", function=function, **arguments)

    # -- switching ---------------------------------------------------------------------

    async def switch(
        self, degree: int, kv: KvMode = "migrate", deadline_seconds: float = DEADLINE_SECONDS
    ) -> SwitchFigures:
        self.epoch += 1
        figures = await self.engine.switch(degree, kv=kv, epoch=self.epoch, deadline_seconds=deadline_seconds)
        return await self.engine.resumed(figures, deadline_seconds=deadline_seconds)

    def settle(self, degree: int) -> None:
        """Bring the idle engine into a layout, with empty prefix caches."""
        if self.engine.degree != degree:
            self.run(self.switch(degree))
        self.command("flush")
        self.run(self.quiet())

    async def quiet(self) -> None:
        """Return when no rank's record has a running request: it is written after the last output."""
        while any(record.running or record.waiting for record in self.records()):
            await asyncio.sleep(0.002)

    def records(self) -> list[RankRecord]:
        return [reader.read() for reader in self.engine.records]

    async def reached(self, tokens: int) -> None:
        """Return when the longest live response has so many tokens."""
        while max(record.longest_tokens for record in self.records()) < tokens:
            await asyncio.sleep(0.002)

    # -- stages ------------------------------------------------------------------------

    def stage(
        self,
        switches: Sequence[SwitchAt] = (),
        *,
        sampling: dict[str, Any] | Sequence[dict[str, Any]] = GREEDY,
        prompts: Sequence[list[int]] = PROMPTS,
        logprobs: bool = True,
    ) -> StageResult:
        each = [sampling] * len(prompts) if isinstance(sampling, dict) else list(sampling)
        return self.run(self._stage(list(switches), each, prompts, logprobs))

    async def _stage(
        self,
        switches: list[SwitchAt],
        sampling: list[dict[str, Any]],
        prompts: Sequence[list[int]],
        logprobs: bool,
    ) -> StageResult:
        requests = [
            asyncio.create_task(self.engine.generate(prompt, chosen, logprobs=logprobs))
            for prompt, chosen in zip(prompts, sampling, strict=True)
        ]
        figures, epochs = [], []
        for planned in switches:
            await self.reached(planned.tokens)
            figures.append(await self.switch(planned.degree, planned.kv))
            epochs.append(self.epoch)
        outputs = list(await asyncio.gather(*requests))
        await self.quiet()
        return StageResult(outputs=outputs, switches=figures, epochs=epochs)


def seeded(temperature: float = 1.0, count: int = len(PROMPTS), **sampling: Any) -> list[dict[str, Any]]:
    """Sampling for a stage whose requests carry their own seeds."""
    return [
        GREEDY | {"temperature": temperature, "sampling_seed": 1 << 40 | i} | sampling for i in range(count)
    ]


def differences(reference: StageResult, other: StageResult) -> list[str]:
    """What is not equal between two stages of the same requests: tokens, or log-probs beyond tolerance."""
    found = []
    for index, (one, two) in enumerate(zip(reference.tokens, other.tokens, strict=True)):
        if one != two:
            at = next(
                (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
            )
            found.append(f"request {index}: token {at} of {len(one)} and {len(two)}")
    for index, (one, two) in enumerate(zip(reference.log_probs, other.log_probs, strict=True)):
        if len(two) != len(other.tokens[index]):
            found.append(f"request {index}: {len(two)} log-probs for {len(other.tokens[index])} tokens")
        gap = max((abs(a - b) for a, b in zip(one, two, strict=False)), default=0.0)
        if gap > LOG_PROB_TOLERANCE:
            found.append(f"request {index}: log-probs differ by {gap:.2g}")
    return found


def mix_faults(figures: SwitchFigures) -> list[str]:
    """What shows that a switch of `MIXED_PROMPTS` did not migrate the long ones and recompute the short."""
    counts = [figures.migrated_requests, figures.recomputed_requests]
    found = [] if counts == [3, 4] else [f"{counts} migrated and recomputed"]
    # The last token of each has no KV yet, so it is prefilled in any case.
    wanted = figures.live_tokens - figures.migrated_tokens + sum(counts)
    if figures.prefilled_tokens != wanted:
        found.append(f"{figures.prefilled_tokens} tokens prefilled, not {wanted}")
    if not figures.moved_bytes:
        found.append("no byte moved")
    return found


def memory_faults(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Memory that a rank pays for twice, from the command `inspect`."""
    found = []
    for rank, fact in enumerate(facts):
        if fact["all_pools_bytes"] != fact["arena_bytes"] or not fact["arena_bytes"]:
            found.append(
                f"rank {rank}: {fact['all_pools_bytes']} bytes of KV in an arena of {fact['arena_bytes']}"
            )
        private = {degree: held for degree, held in fact["private_weight_bytes"].items() if held}
        if private or not fact["private_weight_bytes"]:
            found.append(f"rank {rank}: private weights {private}")
    return found


def update_weights(engine: LiveEngine, model: Path) -> list[dict[str, Any]]:
    """Load another model's weights into every rank, as after a trainer's update."""
    return engine.command(
        "update_weights",
        source="rank_plugins:weights_of",
        arguments=[{"path": str(model)}] * engine.settings.footprint,
    )


# -- sampling without seeds ----------------------------------------------------------------


def unseeded_tokens(
    engine: LiveEngine, switches: Sequence[SwitchAt]
) -> tuple[StageResult, list[list[list[Any]]]]:
    """A stage at temperature 1, and each rank's sampled tokens: [epoch, degree, request, position, token]."""
    engine.call("trace_tokens")
    result = engine.stage(switches, sampling=GREEDY | {"temperature": 1.0})
    return result, [traced["tokens"] for traced in engine.call("traced")]


def split_tokens(tokens: list[list[list[Any]]]) -> list[Any]:
    """Places (epoch, degree, request, position) at which the ranks of a group sampled different tokens."""
    split = []
    for degree in {entry[1] for of_rank in tokens for entry in of_rank} - {1}:
        sampled = [{tuple(e[:4]): e[4] for e in of_rank if e[1] == degree} for of_rank in tokens]
        for leader in range(0, len(tokens), degree):
            for follower in range(leader + 1, leader + degree):
                one, two = sampled[leader], sampled[follower]
                split += [place for place in one.keys() | two.keys() if one.get(place) != two.get(place)]
    return split


def unseeded_siblings(engine: LiveEngine, temperature: float) -> set[tuple[int, ...]]:
    """What four samples of one prompt get after a narrowing, two in each group.

    At a very high temperature a token is what the noise says, whatever came before it.
    """
    engine.settle(2)
    result = engine.stage(
        [SwitchAt(tokens=10, degree=1)],
        sampling=GREEDY | {"temperature": temperature, "max_new_tokens": 60},
        prompts=[[5, 6, 7, 8]] * 4,
    )
    return {tuple(tokens[-40:]) for tokens in result.tokens}
