"""Commands from the coordinator to every rank, as JSON, and each rank's reply, pickled."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

COMMAND_METHOD = "taper_command"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to every rank. `arguments` is JSON-ready."""

    id: int
    name: str
    arguments: dict[str, Any]

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A rank's reply to a command: `error` is None on success. `id` -1: the rank's process ends.

    `result` is a command's dictionary, or None; of a `switch` its `SwitchFigures`.
    """

    id: int
    rank: int
    result: Any
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOrder:
    """The arguments of the command `switch`.

    `proposed_at` is in seconds of the machine's monotonic clock: `timeout_seconds` count from then,
    in every rank. `kv` is the JSON form of a `KvMode`.
    """

    epoch: int
    degree: int
    kv: Any
    proposed_at: float
    timeout_seconds: float
