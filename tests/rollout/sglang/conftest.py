"""Real engines are shared: one for each subfolder, on one event loop. Starting one takes half a minute."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from .models import make_model

FOLDER = Path(__file__).parent
MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`model(architecture, seed)`: a tiny model's directory, made once."""
    directory = tmp_path_factory.mktemp("models")

    def made(architecture: str = "qwen3", seed: int = 1, **shape: int) -> Path:
        name = "-".join([architecture, str(seed), *(f"{k}{v}" for k, v in shape.items())])
        if not (directory / name).exists():
            make_model(directory / name, architecture, seed, **shape)
        return directory / name

    return made


@pytest.fixture(scope="session", autouse=True)
def rank_plugins() -> Iterator[str]:
    """Rank processes can import `rank_plugins`: spawned processes get this one's path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield "rank_plugins:install"


@pytest.fixture(scope="package", autouse=True)
def nothing_left() -> Iterator[None]:
    """After all engines are closed /dev/shm is as it was, and no socket of theirs is open."""
    before = set(os.listdir("/dev/shm"))
    yield
    left = {name for name in set(os.listdir("/dev/shm")) - before if "sgl" in name or "taper" in name}
    assert not left
    # Such a socket, collected together with its context, would stop this process for ever.
    sockets = [found for found in gc.get_objects() if issubclass(type(found), zmq.Socket)]
    assert not [socket for socket in sockets if not socket.closed]
