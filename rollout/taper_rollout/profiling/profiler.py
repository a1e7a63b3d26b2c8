"""Measures a profile on a live engine: decode steps over the grid, prefills, and switches under load.

The engine must serve nothing else. Step times come from the ranks' shared records, as for the
coordinator. Steps of a cell count only while all of its groups run all of their requests, and the first
steps are left out. Cells are visited in turns, so that a temporary disturbance of the machine affects a
part of many cells, not all of one.

The seconds of a switch are its pause, as the coordinator measures it (from the last step before it to
the one after which all of its requests decode again), without the wait for the last group to finish its
step: that wait belongs to the step, and differs from switch to switch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import numpy as np

from taper_policy.profile.fit import (
    PrefillSample,
    Samples,
    StepSample,
    SwitchSample,
    fit_profile,
    needs_more,
)
from taper_policy.profile.kv_choice import KvMode
from taper_policy.profile.profile import Profile
from taper_policy.profile.robust_fit import nonnegative_terms
from taper_rollout.job.requirements import model_config
from taper_rollout.profiling.grid import (
    CONTEXT_MARGIN_TOKENS,
    SKIPPED_STEPS,
    STEPS_BEFORE_SWITCH,
    EngineCapacity,
    Grid,
    Load,
    Place,
    prefill_prompts,
    tour,
    tour_tokens,
)
from taper_rollout.profiling.kv_budget import read_model_shape
from taper_rollout.profiling.load import (
    POLL_SECONDS,
    SAMPLING,
    START_SECONDS,
    EndedEarly,
    Prompts,
    decoding,
    leaders,
    until,
)
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import wanted_of
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RecordReader
from taper_rollout.switching.figures import SwitchFigures

log = logging.getLogger("taper.profiler")

ONE_TOKEN = SAMPLING | {"max_new_tokens": 1}
STEPS_SECONDS = 120.0
VISIT_ATTEMPTS = 3
# A prefill is visible in the record only until the next step: poll often.
PREFILL_POLL_SECONDS = 0.0005
PREFILL_SECONDS = 300.0
TOKENS_PER_PREFILL = 24
# Prefills that came and went between two polls are repeated.
PREFILL_ATTEMPTS = 8

Switch = Callable[[int, KvMode], Awaitable[SwitchFigures | None]]
"""Switches the engine to a degree, migrating or recomputing KV. Returns the figures once the requests
decode again, or None if the engine has that degree already."""

Progress = Callable[[float, str], None]
"""Called with the share that is done, from 0 to 1, and what is being measured."""


class EngineSwitch:
    """A `Switch` for an engine without a coordinator: it numbers the epochs itself."""

    def __init__(self, engine: ElasticEngine, deadline_seconds: float) -> None:
        self._engine, self._deadline_seconds, self._epoch = engine, deadline_seconds, 0

    async def __call__(self, degree: int, kv: KvMode) -> SwitchFigures | None:
        if self._engine.degree == degree:
            return None
        self._epoch += 1
        figures = await self._engine.switch(
            degree, kv=kv, epoch=self._epoch, deadline_seconds=self._deadline_seconds
        )
        return await self._engine.resumed(figures, deadline_seconds=self._deadline_seconds)


async def measure_profile(
    engine: ElasticEngine,
    settings: ReplicaSettings,
    switch: Switch,
    *,
    grid: Grid,
    on_progress: Progress = lambda share, activity: None,
) -> Profile:
    """Measure an idle engine in its base layout, to which it returns afterwards.

    Raises `ValueError` if the samples do not determine a profile, `TimeoutError` if requests do not decode,
    `CommandFailed` if a switch is refused, and what the engine raises.
    """
    began = time.monotonic()
    async with _profiling(engine, settings, switch, grid) as profiler:
        await profiler.measure(on_progress)
    log.info("replica %d: measured a profile in %.0f s", settings.replica, time.monotonic() - began)
    return profiler.profile()


async def warm_up(engine: ElasticEngine, settings: ReplicaSettings, switch: Switch, *, grid: Grid) -> None:
    """Decode in each layout and switch once, as measuring does. Raises the same errors."""
    async with _profiling(engine, settings, switch, grid) as profiler:
        await profiler.warm_up()


@contextlib.asynccontextmanager
async def _profiling(
    engine: ElasticEngine, settings: ReplicaSettings, switch: Switch, grid: Grid
) -> AsyncIterator[Profiler]:
    """Yield a profiler. Afterwards the engine is in its base layout, with empty caches."""
    try:
        yield Profiler(engine, settings, switch, grid=grid, capacity=await find_capacity(engine, settings))
    finally:
        if engine.fault is None:
            await switch(settings.rollout.degrees[0], "migrate")
            await engine.command("flush")


async def find_capacity(engine: ElasticEngine, settings: ReplicaSettings) -> EngineCapacity:
    """What the engine can serve. If SGLang sized the KV memory, the ranks are asked for it."""
    kv_tokens = engine.settings.kv_tokens
    if kv_tokens is None:
        kv_tokens = min(arena["kv_tokens"] for arena in await engine.command("arena"))
    return EngineCapacity(
        footprint=settings.rollout.footprint,
        degrees=settings.rollout.degrees,
        max_running_requests=engine.settings.max_running_requests,
        kv_tokens=kv_tokens,
        context_tokens=settings.context_tokens,
    )


class Profiler:
    """Takes the samples of one profile."""

    def __init__(
        self,
        engine: ElasticEngine,
        settings: ReplicaSettings,
        switch: Switch,
        *,
        grid: Grid,
        capacity: EngineCapacity,
    ) -> None:
        self._engine, self._settings, self._switch = engine, settings, switch
        self._grid, self._capacity = grid, capacity
        self._key = wanted_of(settings).key
        self._kv_bytes_per_token = read_model_shape(settings.model_path, settings.dtype).token_bytes
        self._prompts = Prompts(model_config(settings.model_path, is_raw=True)["vocab_size"])
        self._steps: dict[Place, list[StepSample]] = {place: [] for place in grid.places(capacity)}
        self._prefills: list[PrefillSample] = []
        self._switches: list[SwitchSample] = []

    async def measure(self, on_progress: Progress) -> None:
        """Take all samples."""
        loads = self._grid.loads(self._capacity)
        total = self._grid.max_visits * len(self._steps) + 4 * len(self._capacity.degrees) + 4 * len(loads)
        done = 0

        def report(count: int, activity: str) -> None:
            nonlocal done
            done += count
            on_progress(min(1.0, done / total), activity)

        await self.warm_up()
        for load in loads:
            report(4, f"switches with {load.requests} x {load.context_tokens} tokens, {load.kv}")
            await self._tour(load)
        for visit in range(self._grid.max_visits):
            for degree in self._capacity.degrees:
                places = [place for place in self._steps if place.degree == degree]
                uncertain = [
                    place for place in places if visit < self._grid.min_visits or self._is_uncertain(place)
                ]
                report(len(places) - len(uncertain), f"TP{degree}")
                if uncertain:
                    await self._switch(degree, "migrate")
                if visit == 0:
                    report(4, f"TP{degree}: prefills")
                    await self._measure_prefills()
                for place in uncertain:
                    report(1, f"TP{degree}: {place.batch} requests of {place.context_tokens} tokens")
                    await self._visit(place)
        on_progress(1.0, "done")

    async def warm_up(self) -> None:
        """Decode in each layout and switch to it once, as the first time takes longer."""
        for load in self._grid.loads(self._capacity)[:1]:
            await self._tour(load, counts=False)

    def profile(self) -> Profile:
        """The profile fitted to the samples. Raises `ValueError` if they are too few."""
        return fit_profile(
            Samples(
                steps=[sample for samples in self._steps.values() for sample in samples],
                prefills=self._prefills,
                switches=self._switches,
            ),
            key=self._key,
            footprint=self._capacity.footprint,
            degrees=self._capacity.degrees,
            kv_bytes_per_token=self._kv_bytes_per_token,
            contexts=self._grid.contexts(self._capacity),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    # -- decode steps ------------------------------------------------------------------

    def _is_uncertain(self, place: Place) -> bool:
        return needs_more([sample.seconds for sample in self._steps[place]])

    async def _visit(self, place: Place) -> None:
        """Take the samples of one visit to a cell."""
        samples = self._steps[place]
        tokens = place.context_tokens - self._grid.lead_tokens
        prompts = [
            self._prompts.fixed(group, slot, tokens)
            for slot in range(place.batch)
            for group in range(place.busy_groups)
        ]
        if place.busy_groups > 1:
            # Otherwise one group would finish its requests while another still prefills.
            await self._fill_caches(prompts)
        only = 0 if place.busy_groups == 1 else None
        for attempt in range(VISIT_ATTEMPTS):
            try:
                async with decoding(self._engine, prompts, max_tokens=self._grid.visit_tokens, group=only):
                    samples += await self._steps_of(place)
                return
            except EndedEarly:
                # On a busy machine some requests finish before others have arrived.
                if attempt == VISIT_ATTEMPTS - 1:
                    raise

    async def _fill_caches(self, prompts: list[list[int]]) -> None:
        requests = [self._engine.generate(prompt, ONE_TOKEN, logprobs=True) for prompt in prompts]
        await asyncio.wait_for(asyncio.gather(*requests), START_SECONDS)

    async def _steps_of(self, place: Place) -> list[StepSample]:
        """Steps of the busy groups, taken while all of them are busy. Raises `TimeoutError`."""
        readers = leaders(self._engine, place.busy_groups)
        for reader in readers:
            reader.new_steps()
        taken: list[list[StepSample]] = [[] for _ in readers]
        wanted = SKIPPED_STEPS + -(-self._grid.steps // place.busy_groups)
        deadline = time.monotonic() + STEPS_SECONDS
        while min(len(samples) for samples in taken) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the groups did not make {wanted} steps within {STEPS_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
            if any(reader.read().running != place.batch for reader in readers):
                raise EndedEarly(f"{place}: a request ended before its steps were taken")
            for reader, samples in zip(readers, taken, strict=True):
                samples += self._samples(reader, place)
        together = zip(*(samples[SKIPPED_STEPS:wanted] for samples in taken), strict=True)
        return [sample for step in together for sample in step]

    @staticmethod
    def _samples(reader: RecordReader, place: Place) -> list[StepSample]:
        return [
            StepSample(
                degree=step.degree,
                batch=step.batch,
                context_tokens=step.context_tokens / step.batch,
                busy_groups=place.busy_groups,
                seconds=step.seconds,
            )
            for step in reader.new_steps()
            if step.batch == place.batch
        ]

    # -- prefills ----------------------------------------------------------------------

    async def _measure_prefills(self) -> None:
        """Prefill prompts of all sizes in a group that is decoding: only then is their time recorded."""
        sizes = self._grid.prefill_tokens(self._capacity)
        wanted = [size for _ in range(self._grid.prefill_repeats) for size in sizes]
        for _ in range(PREFILL_ATTEMPTS):
            decoded = self._prompts.fresh(min(sizes))
            tokens_left = self._capacity.context_tokens - len(decoded) - CONTEXT_MARGIN_TOKENS
            per_session = max(1, tokens_left // TOKENS_PER_PREFILL)
            session, wanted = wanted[:per_session], wanted[per_session:]
            max_tokens = min(tokens_left, TOKENS_PER_PREFILL * len(session))
            async with decoding(self._engine, [decoded], max_tokens=max_tokens, group=0):
                wanted += [size for size in session if not await self._measure_prefill(size)]
            if not wanted and self._prefills_suffice(self._engine.degree):
                return
            wanted = wanted or list(sizes)

    def _prefills_suffice(self, degree: int) -> bool:
        """Whether more tokens took more time. On a busy machine a few samples may show the opposite."""
        samples = [sample for sample in self._prefills if sample.degree == degree]
        amounts = np.array([(1.0, sample.tokens) for sample in samples])
        terms = nonnegative_terms(amounts, np.array([sample.seconds for sample in samples]))
        return bool(terms[1] > 0)

    async def _measure_prefill(self, tokens: int) -> bool:
        """Send prompts of `tokens` tokens together. Returns whether their prefill was seen and sampled."""
        [reader] = leaders(self._engine, 1)
        before = reader.read()
        prompts = [self._prompts.fresh(length) for length in prefill_prompts(self._capacity, tokens)]
        request = asyncio.gather(
            *(self._engine.generate(prompt, ONE_TOKEN, logprobs=True) for prompt in prompts)
        )
        try:
            is_done = False
            while not is_done:
                await asyncio.sleep(PREFILL_POLL_SECONDS)
                is_done, now = request.done(), reader.read()
                prefilled = now.prefilled_tokens_total - before.prefilled_tokens_total
                if prefilled:
                    # If a decode step followed already, the record has its seconds, not those of the prefill.
                    is_seen = now.steps_total == before.steps_total and prefilled > tokens // 2
                    # If nothing was decoding any more, no step came before it and no time was recorded.
                    is_seen = is_seen and now.step_seconds > 0
                    if is_seen:
                        self._prefills.append(
                            PrefillSample(degree=now.degree, tokens=prefilled, seconds=now.step_seconds)
                        )
                    return is_seen
                before = now
            return False
        finally:
            await asyncio.wait_for(request, PREFILL_SECONDS)

    # -- switches ----------------------------------------------------------------------

    async def _tour(self, load: Load, *, counts: bool = True) -> None:
        """Switch from each degree to each other while the load's requests decode."""
        prompts = [self._prompts.fresh(load.context_tokens) for _ in range(load.requests)]
        await self._switch(self._capacity.degrees[0], "migrate")
        async with decoding(self._engine, prompts, max_tokens=tour_tokens(self._capacity)):
            for degree in tour(self._capacity.degrees):
                await self._decode_some_steps()
                before = self._engine.degree
                figures = await self._switch(degree, load.kv)
                if counts and figures is not None and figures.live_requests:
                    self._switches.append(self._switch_sample(before, degree, figures))

    async def _decode_some_steps(self) -> None:
        """Wait until every group with requests has decoded `STEPS_BEFORE_SWITCH` steps."""
        readers = leaders(self._engine)
        wanted = [reader.read().steps_total + STEPS_BEFORE_SWITCH for reader in readers]

        def have_decoded() -> bool:
            records = [reader.read() for reader in readers]
            pairs = zip(records, wanted, strict=True)
            return all(record.steps_total >= steps or not record.running for record, steps in pairs)

        await until(have_decoded, STEPS_SECONDS, "decode")

    def _switch_sample(self, before: int, degree: int, figures: SwitchFigures) -> SwitchSample:
        waited = figures.parts_seconds["quiesce"] - figures.parts_seconds["offer"]
        return SwitchSample(
            from_degree=before,
            to_degree=degree,
            requests=figures.live_requests,
            migrated_requests=figures.migrated_requests,
            num_bytes=figures.migrated_tokens * self._kv_bytes_per_token,
            recomputed_tokens=figures.recomputed_tokens,
            seconds=figures.pause_seconds - waited,
        )
