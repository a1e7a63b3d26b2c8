"""Spans of a replica's requests in Chrome's trace event format (chrome://tracing, Perfetto)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class ProfileTrace:
    """Requests as bars over time, a row per request."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def add(self, request_id: str, started_at: float, ended_at: float, *, tokens: int) -> None:
        """Add a finished request. Times are Unix seconds."""
        self._events.append(
            {
                "name": request_id,
                "ph": "X",
                "pid": 0,
                "tid": len(self._events),
                "ts": started_at * 1e6,
                "dur": (ended_at - started_at) * 1e6,
                "args": {"tokens": tokens},
            }
        )

    def write(self, path: Path) -> None:
        """Write the trace. Creates the directory."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"traceEvents": self._events}))
