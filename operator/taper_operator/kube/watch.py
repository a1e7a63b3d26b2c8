"""The event stream of a watch, line by line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import urllib3

from taper_operator.kube.errors import Unreachable, error_from_status
from taper_operator.kube.json_decoder import decoded
from taper_operator.kube.resource import KubeObject

_READ_BYTES = 65_536


class WatchEvent(NamedTuple):
    """type: ADDED, MODIFIED, DELETED, or BOOKMARK (whose object has nothing but a resourceVersion)"""

    type: str
    object: KubeObject


class Watch:
    """The events of a watch, until the API server ends it.

    Iterating raises `ApiError`: Gone, Unreachable where the stream broke. `stop` may be called
    from any thread; the iteration then ends.

    response: urllib3's, not read yet
    broke: called when the stream ends without `stop`
    """

    def __init__(self, response: Any, *, broke: Callable[[], None] = lambda: None) -> None:
        self._response = response
        self._broke = broke
        self._lock = threading.Lock()
        self._is_stopped = False
        self._is_closed = False

    def __iter__(self) -> Iterator[WatchEvent]:
        for line in self._lines():
            if line.strip():
                yield _event(line)

    def stop(self) -> None:
        """End the iteration, even while it waits for the API server in another thread."""
        with self._lock:
            self._is_stopped = True
            if not self._is_closed:
                # Closing would not wake the reading thread.
                with contextlib.suppress(ValueError, RuntimeError, OSError):
                    self._response.shutdown()

    def close(self) -> None:
        """Close the connection: no other request can use it."""
        with self._lock:
            self._is_closed = True
            self._response.close()

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        # A last line without a newline was cut off; the next watch delivers its event again.

    def _chunks(self) -> Iterator[bytes]:
        try:
            # read1: `read` and `stream` may wait until their buffer is full.
            while chunk := self._response.read1(_READ_BYTES):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self._is_stopped:
                self._broke()
                raise Unreachable(f"the watch broke: {error}") from error
        else:
            if not self._is_stopped:
                self._broke()


def _event(line: bytes) -> WatchEvent:
    try:
        content = decoded(line)
        event = WatchEvent(content["type"], content["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreachable(f"the watch sent something other than an event: {line[:200]!r}") from error
    if event.type == "ERROR":
        raise error_from_status(int(event.object.get("code") or 500), event.object, {})
    return event
