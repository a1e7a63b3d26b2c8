"""A profile measured on the real engine: what each sample is of, and an engine that is as it was."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from taper_api.job.rollout_spec import RolloutSpec
from taper_policy.profile.kv_choice import KvMode
from taper_policy.profile.profile import Profile
from taper_rollout.profiling import calibration as replica_profile
from taper_rollout.profiling import load as profile_load
from taper_rollout.profiling import profiler
from taper_rollout.profiling.calibration import obtain_profile
from taper_rollout.profiling.grid import SKIPPED_STEPS, Grid, prefill_prompts
from taper_rollout.profiling.load import EndedEarly, decoding
from taper_rollout.profiling.profiler import Profiler, Switch, find_capacity, measure_profile
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import stored_profile, wanted_of
from taper_rollout.switching.figures import SwitchFigures

from ..live_engine import LiveEngine, StageResult, differences

GRID = Grid(
    batches=(1, 3),
    context_ratio=20.0,
    longest_context=512,
    max_cell_tokens=2000,
    steps=10,
    max_visits=1,
    min_visits=1,
    prefill_sizes=5,
    prefill_repeats=2,
    switch_requests=(1, 3),
    max_recomputed_tokens=700,
    tours=2,
)
MEASURE_SECONDS = 400.0
KV_BYTES_PER_TOKEN = 2 * 4 * 4 * 32 * 4


@pytest.fixture
def settings(engine: LiveEngine, tmp_path: Path) -> ReplicaSettings:
    return ReplicaSettings(
        rollout=RolloutSpec(
            footprint=2,
            mode="off",
            samples_per_prompt=1,
            response_tokens=200,
            kv_tokens=engine.settings.kv_tokens,
            max_running_requests=engine.settings.max_running_requests,
        ),
        model_path=engine.settings.model_path,
        dtype="float32",
        context_tokens=400,
        trust_remote_code=False,
        device="cpu",
        replica=0,
        random_seed=1,
        host="127.0.0.1",
        profiles=str(tmp_path / "profiles"),
    )


@pytest.fixture
def switch(engine: LiveEngine) -> Switch:
    """The engine's switches are numbered by the tests' own helper."""

    async def switched(degree: int, kv: KvMode) -> SwitchFigures | None:
        return None if engine.engine.degree == degree else await engine.switch(degree, kv)

    return switched


@pytest.fixture
def idle_afterwards(engine: LiveEngine, unswitched: StageResult) -> Iterator[None]:
    yield
    assert engine.engine.degree == 1
    assert not any(record.running or record.waiting for record in engine.records())
    assert differences(unswitched, engine.stage()) == []


async def measured(engine: LiveEngine, settings: ReplicaSettings, switch: Switch) -> Profiler:
    capacity = await find_capacity(engine.engine, settings)
    found = Profiler(engine.engine, settings, switch, grid=GRID, capacity=capacity)
    await found.measure(lambda share, doing: None)
    await switch(1, "migrate")
    return found


@pytest.mark.usefixtures("idle_afterwards")
def test_each_sample_is_of_its_cell(engine: LiveEngine, settings: ReplicaSettings, switch: Switch) -> None:
    found = engine.run(measured(engine, settings, switch), MEASURE_SECONDS)
    assert {place[:3] for place in found._steps} == {
        (degree, busy, batch)
        for degree, busy in ((1, 1), (1, 2), (2, 1))
        for batch in ((1, 3, 3) if degree == 1 else (1, 3))
    }
    for place, samples in found._steps.items():
        assert len(samples) >= GRID.steps
        assert all((s.degree, s.busy_groups, s.batch) == place[:3] for s in samples)
        prompt = place.context_tokens - GRID.lead_tokens
        for group in range(place.busy_groups):
            contexts = [sample.context_tokens for sample in samples[group :: place.busy_groups]]
            # Every request makes a token a step: so does the mean, if it is one.
            assert [two - one for one, two in pairwise(contexts)] == [1.0] * (len(contexts) - 1)
            assert prompt + SKIPPED_STEPS < contexts[0]
            assert contexts[-1] <= prompt + GRID.visit_tokens
    capacity = engine.run(find_capacity(engine.engine, settings))
    _check_switches(found, max(load.context_tokens for load in GRID.loads(capacity)))
    sizes = GRID.prefill_tokens(capacity)
    assert len(prefill_prompts(capacity, max(sizes))) == 2
    for degree in (1, 2):
        seen = [sample.tokens for sample in found._prefills if sample.degree == degree]
        # Another prompt may have begun with the same token.
        assert len(seen) >= 5
        assert all(
            any(size - 3 * len(prefill_prompts(capacity, size)) <= tokens <= size for size in sizes)
            for tokens in seen
        ), (sizes, seen)
        assert max(seen) > settings.context_tokens


def test_ranks_are_asked_for_the_size_that_sglang_chose(
    engine: LiveEngine, settings: ReplicaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a job need not give the arena's size."""
    known = engine.run(find_capacity(engine.engine, settings))
    unknown = dataclasses.replace(engine.settings, kv_tokens=None)
    monkeypatch.setattr(engine.engine, "settings", unknown)
    assert engine.run(find_capacity(engine.engine, settings)) == known


def _check_switches(found: Profiler, longest_context: int) -> None:
    for pair in ((1, 2), (2, 1)):
        samples = [s for s in found._switches if (s.from_degree, s.to_degree) == pair]
        assert len(samples) >= 10
        assert {s.requests for s in samples} == {1, 3}
        assert all(0 < s.seconds < 30 for s in samples)
        for sample in samples:
            migrates = sample.migrated_requests > 0
            assert sample.migrated_requests in (0, sample.requests)
            assert (sample.num_bytes > 0) == migrates
            assert (sample.recomputed_tokens > 0) != migrates
            assert sample.num_bytes % KV_BYTES_PER_TOKEN == 0
        assert {sample.migrated_requests > 0 for sample in samples} == {True, False}
        tokens = [s.num_bytes // KV_BYTES_PER_TOKEN for s in samples if s.requests == 3 and s.num_bytes]
        assert min(tokens) >= 3 * GRID.shortest_context
        assert max(tokens) >= 3 * longest_context


@pytest.mark.usefixtures("idle_afterwards")
def test_a_profile_is_measured_once_and_kept(
    engine: LiveEngine, settings: ReplicaSettings, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtained() -> Profile | None:
        work = obtain_profile(engine.engine, settings, switch, grid=GRID)
        found: Profile | None = engine.run(work, MEASURE_SECONDS)
        return found

    first = obtained()
    assert first is not None
    assert first.key == wanted_of(settings).key
    assert first.kv_bytes_per_token == KV_BYTES_PER_TOKEN
    assert sorted(first.switch) == [(1, 2), (2, 1)]
    assert first.held_out_error is not None
    assert 0 < first.held_out_error < 10
    contexts = [cell.context_tokens for cell in first.cells if (cell.degree, cell.batch) == (1, 3)]
    assert min(contexts) <= 40 <= max(contexts)
    assert settings.profiles is not None
    assert stored_profile(Path(settings.profiles), wanted_of(settings)) == first
    monkeypatch.setattr(replica_profile, "measure_profile", lambda *_, **__: pytest.fail("measured again"))
    assert obtained() == first


@pytest.mark.usefixtures("idle_afterwards")
def test_measuring_that_fails_leaves_the_engine_as_it_was(
    engine: LiveEngine, settings: ReplicaSettings, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: object) -> None:
        raise TimeoutError("the requests did not decode")

    monkeypatch.setattr(profiler.Profiler, "_measure_prefills", stuck)
    with pytest.raises(TimeoutError, match="did not decode"):
        engine.run(measure_profile(engine.engine, settings, switch, grid=GRID), MEASURE_SECONDS)
    assert engine.engine.degree == 1


@pytest.mark.usefixtures("idle_afterwards")
def test_requests_that_end_too_soon_are_noticed(engine: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def short() -> None:
        async with decoding(engine.engine, [[1, 2, 3], [4, 5, 6]], max_tokens=1):
            pytest.fail("they cannot both decode")

    monkeypatch.setattr(profile_load, "_all_decode", lambda engine, count: False)
    with pytest.raises(EndedEarly):
        engine.run(short())


@pytest.mark.usefixtures("idle_afterwards")
def test_a_measuring_that_is_called_off_ends_its_requests(engine: LiveEngine) -> None:
    async def forever() -> None:
        async with decoding(engine.engine, [[1, 2, 3], [4, 5, 6]], max_tokens=900):
            await asyncio.sleep(60)

    async def called_off() -> None:
        work = asyncio.create_task(forever())
        while sum(record.running for record in engine.records()) < 2:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    engine.run(called_off())
