"""Which profile a replica gets at its start, and what it reports of it. The measurement is replaced."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from taper_api.job.rollout_spec import RolloutSpec
from taper_policy.profile.file import write_profile
from taper_policy.profile.profile import Profile
from taper_rollout.events import Calibration, StepSeconds
from taper_rollout.profiling import calibration as replica_profile
from taper_rollout.profiling.calibration import calibration_of, obtain_profile
from taper_rollout.profiling.grid import EngineCapacity
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import stored_profile, wanted_of
from taper_rollout.sglang.engine import CommandFailed, EngineDied

from ..conftest import TinySample
from ..fake_engine import changed
from ..measured_profile import measured_profile

ENGINE: Any = object()


async def switch(degree: int, kv: Any) -> dict[str, Any]:
    raise AssertionError("nothing is switched here")


@pytest.fixture
def settings(tiny_sample: TinySample, tmp_path: Path) -> ReplicaSettings:
    return ReplicaSettings(
        rollout=RolloutSpec(
            footprint=2, samples_per_prompt=1, response_tokens=320, kv_tokens=8192, max_running_requests=4
        ),
        model_path=str(tiny_sample("qwen3") / "model"),
        dtype="float32",
        context_tokens=352,
        trust_remote_code=False,
        device="cpu",
        replica=3,
        random_seed=1,
        host="127.0.0.1",
        profiles=str(tmp_path / "profiles"),
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, settings: ReplicaSettings) -> list[str]:
    """Replaces the engine: lists the calls, and returns a profile of `settings`."""
    done: list[str] = []

    async def measure(*_: object, **__: object) -> Profile:
        done.append("measured")
        return fitting(settings)

    async def warm_up(*_: object, **__: object) -> None:
        done.append("warmed up")

    async def capacity(*_: object) -> EngineCapacity:
        return EngineCapacity(
            footprint=2, degrees=(1, 2), max_running_requests=4, kv_tokens=8192, context_tokens=352
        )

    monkeypatch.setattr(replica_profile, "measure_profile", measure)
    monkeypatch.setattr(replica_profile, "warm_up", warm_up)
    monkeypatch.setattr(replica_profile, "find_capacity", capacity)
    return done


def fitting(settings: ReplicaSettings, **fields: Any) -> Profile:
    return measured_profile(wanted_of(settings).key, **fields)


def obtained(settings: ReplicaSettings) -> Profile | None:
    return asyncio.run(obtain_profile(ENGINE, settings, switch))


def test_a_measured_profile_is_stored_and_found_again(settings: ReplicaSettings, measured: list[str]) -> None:
    first = obtained(settings)
    assert first == fitting(settings)
    assert obtained(settings) == first
    assert obtained(changed(settings, degrees=(2,))) == first
    assert measured == ["measured", "warmed up", "measured"]


def test_a_broken_file_of_the_store_is_measured_again(
    settings: ReplicaSettings, measured: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    obtained(settings)
    assert settings.profiles is not None
    [file] = Path(settings.profiles).iterdir()
    file.write_text(file.read_text()[:100])
    with caplog.at_level(logging.WARNING):
        assert obtained(settings) == fitting(settings)
    assert "cannot be used and is measured again" in caplog.text
    assert measured == ["measured", "measured"]
    assert stored_profile(Path(settings.profiles), wanted_of(settings)) == fitting(settings)


def test_a_named_file_is_used_and_nothing_measured(
    settings: ReplicaSettings, measured: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    write_profile(fitting(settings, most_batch=16), file)
    for calibrates in (True, False):
        chosen = changed(settings, profile=str(file), calibrate=calibrates)
        assert obtained(chosen) == fitting(settings, most_batch=16)
    assert "measured" not in measured


def test_a_named_file_that_does_not_match_stops_the_replica(
    settings: ReplicaSettings, measured: list[str], tmp_path: Path
) -> None:
    write_profile(measured_profile(), tmp_path / "p.json")
    chosen = changed(settings, profile=str(tmp_path / "p.json"))
    with pytest.raises(ValueError, match=r"^actor_rollout_ref\.rollout\.custom\.profile\.key\.model: "):
        obtained(chosen)
    assert measured == []


def test_a_replica_serves_if_contexts_are_too_short_to_measure(
    settings: ReplicaSettings,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def capacity(*_: object) -> EngineCapacity:
        return EngineCapacity(
            footprint=2, degrees=(1, 2), max_running_requests=4, kv_tokens=8192, context_tokens=14
        )

    monkeypatch.setattr(replica_profile, "find_capacity", capacity)
    with caplog.at_level(logging.WARNING):
        assert obtained(settings) is None
    assert "cannot measure a profile: contexts of 6 tokens are too short" in caplog.text
    assert measured == []


def test_without_calibration_no_profile_is_sought(settings: ReplicaSettings, measured: list[str]) -> None:
    assert obtained(dataclasses.replace(settings, calibrate=False, model_path="none")) is None
    assert measured == []


@pytest.mark.parametrize(
    "fault", [TimeoutError("no step"), ValueError("prefills: degree 1"), CommandFailed("switch: refused")]
)
def test_a_replica_serves_without_a_profile_if_measuring_fails(
    settings: ReplicaSettings,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
) -> None:
    async def fail(*_: object, **__: object) -> Profile:
        raise fault

    monkeypatch.setattr(replica_profile, "measure_profile", fail)
    assert obtained(settings) is None
    assert "replica 3: measuring a profile failed" in caplog.text


def test_an_engine_that_died_is_an_error(
    settings: ReplicaSettings, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> Profile:
        raise EngineDied("rank 1 ended")

    monkeypatch.setattr(replica_profile, "measure_profile", die)
    with pytest.raises(EngineDied):
        obtained(settings)


def test_a_store_that_is_not_writable_is_ignored(
    settings: ReplicaSettings, measured: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert obtained(dataclasses.replace(settings, profiles="/dev/null/store")) == fitting(settings)
    assert "the profile could not be stored" in caplog.text


def test_steps_of_one_group_are_reported_to_the_run(settings: ReplicaSettings, measured: list[str]) -> None:
    profile = obtained(settings)
    assert profile is not None
    assert profile == fitting(settings)
    assert calibration_of(profile, settings) == Calibration(
        replica=3,
        step_seconds=(
            StepSeconds(degree=1, batch=1, seconds=0.01, num_samples=8),
            StepSeconds(degree=1, batch=4, seconds=0.04, num_samples=8),
            StepSeconds(degree=2, batch=1, seconds=0.005, num_samples=8),
            StepSeconds(degree=2, batch=4, seconds=0.02, num_samples=8),
        ),
    )
