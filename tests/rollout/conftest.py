"""What several tests of the rollout need: the tiny sample, made once a session, and a disk that fills up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taper_rollout.sample.make import make_sample
from taper_rollout.sample.model import Architecture

TinySample = Callable[[Architecture], Path]


@pytest.fixture(scope="session")
def tiny_sample(tmp_path_factory: pytest.TempPathFactory) -> TinySample:
    """The directory of the tiny sample in an architecture, with `model/` and `job.yaml` in it."""
    directory = tmp_path_factory.mktemp("sample")

    def made(architecture: Architecture) -> Path:
        make_sample(directory / architecture, variant="tiny", architecture=architecture)
        return directory / architecture

    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)
