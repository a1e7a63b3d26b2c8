"""Starts commands as a user does, each in its own session, and inspects what they leave behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from taper_rollout.job.field_overrides import set_field

HERE = Path(__file__).parent
START_SECONDS = 600
GONE_SECONDS = 150
# Ray's own helpers end themselves some time after their cluster was killed.
SETTINGS: dict[str, Any] = {
    "spec.training.steps": 4,
    "spec.training.batchPrompts": 4,
    "spec.training.ranks": 2,
    "spec.training.checkpoints": {"everySteps": 1, "keep": 3},
    "spec.rollout.footprint": 2,
    "spec.rollout.samplesPerPrompt": 4,
    "spec.rollout.responseTokens": 48,
    "spec.rollout.policy": {"name": "schedule", "schedule": [{"tokens": 8, "degree": 2}]},
    "spec.rollout.sampling.seed": 1,
    "spec.reward.function": f"{HERE / 'row_reward.py'}:reward",
    "spec.verl": {"actor_rollout_ref.model.external_lib": "weight_probe"},
}


@dataclasses.dataclass
class Command:
    """A started command and all processes seen below it."""

    process: subprocess.Popen[str]
    log: Path
    family: set[psutil.Process]

    def look(self) -> None:
        if self.process.poll() is None:
            self.family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.look()
            assert self.process.poll() is None, f"ended before {what}:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"no {what} in {seconds} s:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.2)

    def end(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end. Returns the exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline, f"still running:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.2)
        return self.process.returncode

    def survivors(self, seconds: float = 0.0) -> list[str]:
        """Processes of the command that still run after at most `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            left = [process for process in self.family if _runs(process)]
            if not left or time.monotonic() > deadline:
                return [" ".join(process.cmdline())[:80] for process in left if _runs(process)]
            time.sleep(0.5)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture(scope="session")
def shared_memory() -> Callable[[], set[str]]:
    """The files in /dev/shm."""
    return lambda: {path.name for path in Path("/dev/shm").iterdir()}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, make_tiny_sample: Callable[..., Any]) -> Path:
    """A small job that switches in each step and notes its rows and weights: `job.yaml` in the directory."""
    directory = tmp_path_factory.mktemp("sample")
    make_tiny_sample(directory)
    content = yaml.safe_load((directory / "job.yaml").read_text())
    for field, value in SETTINGS.items():
        set_field(content, field, value)
    (directory / "job.yaml").write_text(yaml.safe_dump(content))
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts Python commands. Those that still run after the module's tests are killed."""
    commands: list[Command] = []
    directory = tmp_path_factory.mktemp("commands")

    def run(*arguments: str | Path, **environment: str) -> Command:
        log = directory / f"{len(commands)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
            )
        commands.append(Command(process=process, log=log, family=set()))
        return commands[-1]

    yield run
    for command in commands:
        command.look()
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()
        for process in command.family:
            if _runs(process):
                process.kill()
