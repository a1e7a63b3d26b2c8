"""Synthetic requests that keep an engine busy while it is measured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np

from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RecordReader

POLL_SECONDS = 0.005
START_SECONDS = 300.0
END_SECONDS = 60.0
# Like VeRL's requests: sampled tokens with their log-probs. They do not stop at the end-of-sequence token.
SAMPLING: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True}


class EndedEarly(TimeoutError):
    """A request finished before the measurement that needed it."""


class Prompts:
    """Random token ids, so that no prompt shares a cached prefix with another."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._num_fresh = 0

    def fixed(self, group: int, slot: int, tokens: int) -> list[int]:
        """The first `tokens` ids of a fixed stream, of which a prefix may be cached."""
        return self._draw((0, group, slot), tokens)

    def fresh(self, tokens: int) -> list[int]:
        """A new prompt, of which nothing is cached."""
        self._num_fresh += 1
        return self._draw((1, self._num_fresh), tokens)

    def _draw(self, seed: tuple[int, ...], tokens: int) -> list[int]:
        drawn: list[int] = np.random.default_rng(seed).integers(0, self._vocabulary_size, tokens).tolist()
        return drawn


def leaders(engine: ElasticEngine, groups: int | None = None) -> list[RecordReader]:
    """The records of the first rank of each group, or of the first `groups` groups."""
    return engine.records[:: engine.degree][:groups]


@contextlib.asynccontextmanager
async def decoding(
    engine: ElasticEngine, prompts: Sequence[list[int]], *, max_tokens: int, group: int | None = None
) -> AsyncIterator[None]:
    """Decode all of `prompts` while the body runs: in `group`, or spread evenly over the groups.

    Aborts them afterwards and waits until the engine is idle. Raises `TimeoutError` if they do not start or
    end, `EndedEarly` if some finish (after `max_tokens`) before all have started, and what the engine raises.
    """
    sampling = SAMPLING | {"max_new_tokens": max_tokens}
    pinned = contextlib.nullcontext() if group is None else engine.pinned_to_group(group)
    with pinned:
        requests = [
            asyncio.create_task(engine.generate(prompt, sampling, logprobs=True)) for prompt in prompts
        ]
        try:
            await until(lambda: _all_decode(engine, len(prompts)), START_SECONDS, "decode", requests)
            yield
        finally:
            await _end(engine, requests)


async def until(
    condition: Callable[[], bool],
    seconds: float,
    what: str,
    requests: Sequence[asyncio.Task[Any]] = (),
) -> None:
    """Wait for the condition. Raises `TimeoutError`, or when a request ends its error or `EndedEarly`."""
    deadline = time.monotonic() + seconds
    while not condition():
        for request in requests:
            if request.done():
                request.result()
                raise EndedEarly(f"a request ended before all requests could {what}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the requests did not {what} in {seconds:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


def _all_decode(engine: ElasticEngine, count: int) -> bool:
    records = [reader.read() for reader in leaders(engine)]
    return sum(record.running for record in records) == count and not any(r.waiting for r in records)


async def _end(engine: ElasticEngine, requests: Sequence[asyncio.Task[Any]]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not all(request.done() for request in requests):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the requests did not end in {END_SECONDS:.0f} s")
        # Repeated, as a request that was on its way was not running the first time.
        engine.abort_all()
        await asyncio.wait(requests, timeout=0.5)
    for request in requests:
        request.result()
    await until(lambda: _is_idle(engine), END_SECONDS, "end")


def _is_idle(engine: ElasticEngine) -> bool:
    records = [reader.read() for reader in leaders(engine)]
    return not any(record.running or record.waiting for record in records)
