"""What several tests of the rollout need: the tiny sample, a coordinator over a fake engine, a full disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taper_rollout.replica import coordinator as module
from taper_rollout.replica import stage_keeper
from taper_rollout.replica.coordinator import Coordinator

from .fake_engine import SETTINGS, FakeEngine, Play, Scenario, changed

TinySample = Callable[[], Path]


@pytest.fixture(scope="session")
def tiny_sample(tmp_path_factory: pytest.TempPathFactory, make_tiny_sample: Callable[..., Any]) -> TinySample:
    """The directory of the tiny sample, with `model/` and a new `job.yaml` in it."""
    directory = tmp_path_factory.mktemp("sample")

    def made() -> Path:
        make_tiny_sample(directory)
        return directory

    return made


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario with a started coordinator, its engine, and the events that it emits."""
    monkeypatch.setattr(module, "ElasticEngine", FakeEngine)
    monkeypatch.setattr(module, "engine_settings", lambda _: None)
    monkeypatch.setattr(stage_keeper, "ARRIVALS_SETTLED_SECONDS", 0.02)

    def played(scenario: Scenario, **changes: Any) -> None:
        async def whole() -> None:
            emitted: list[Any] = []
            coordinator = Coordinator(changed(SETTINGS, **changes), emitted.append)
            await coordinator.start()
            try:
                await asyncio.wait_for(scenario(coordinator, coordinator._engine, emitted), 20)
            finally:
                await coordinator.close()
            assert coordinator._engine.closed

        asyncio.run(whole())

    return played


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)
