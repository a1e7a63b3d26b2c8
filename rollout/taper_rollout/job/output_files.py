"""Writes files of a run's output directory. Whatever goes wrong is an `OutputError` with the file's name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


class OutputError(RuntimeError):
    """The output directory cannot be written to. The text names the file and the reason."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the body into an `OutputError` about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"--output: {path} cannot be written: {reason}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` atomically when the body has written it. Raises `OutputError`."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Replace a JSON file atomically. Raises `OutputError`."""
    text = json.dumps(content, indent=indent, allow_nan=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())
