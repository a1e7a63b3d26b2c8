"""JSON that is nested deeper than any Python code can recurse, and an API server that serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fake_api_server import FakeApiServer, FakeHttpResponse

# Where an object has this text, its clients get the nested JSON.
DEEP = "nested deep"


def nested(levels: int) -> bytes:
    """Mappings within each other; their names have brackets, which do not count."""
    return b'{"[{\\"":' * levels + b"1" + b"}" * levels


class DeepApiServer(FakeApiServer):
    """Puts JSON of so many levels in place of `DEEP` into whatever it answers."""

    def __init__(self, *args: Any, levels: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._nested = nested(levels)
        self.garble: Callable[[list[bytes]], list[bytes]] = lambda lines: list(map(self._deepened, lines))

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> FakeHttpResponse:
        response = super()._handle(method, path, query, body)
        response.data = self._deepened(response.data)
        return response

    def _deepened(self, text: bytes) -> bytes:
        return text.replace(f'"{DEEP}"'.encode(), self._nested)
