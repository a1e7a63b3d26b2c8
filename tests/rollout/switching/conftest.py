"""Fixtures of the switching room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taper_rollout.switching.command import Command

from .agents import Ranks


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    for stacks in ranks.stacks:
        stacks.commands.put(Command(id=-1, name="shutdown", arguments={}))
