"""A profile as a JSON file: written at once, read strictly, and checked against what it is to be used for.

`{"format_version": 4, "key": {...}, ..., "cells": [...], "prefill": {"1": ...}, "switch": {"1->2": ...}}`.
The fields are those of the dataclasses in `profile`.

Invariants (asserted by `tests/policy/profile/test_file.py`):
- a profile read back equals the one written;
- a reader sees the old file or the new one, never a part;
- everything that is missing, unknown, of another type or cannot be true is a `ValueError`
  that begins with the field's path; nothing has a default.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, StepCell, SwitchTerms

FORMAT_VERSION: Final = 4

_Reader = Callable[[object, str], Any]


def write_profile(profile: Profile, file: Path) -> None:
    """Replace `file` at once. Raises `OSError` where it cannot be written."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(_lines(profile_as_json(profile)))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_profile(file: Path, *, path: str = "profile") -> Profile:
    """The profile in `file`.

    Raises `OSError` where it cannot be read, and `ValueError`, which begins with `path` (the
    setting that named the file) and below it the field, for what is wrong in it.
    """
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {file} is not whole JSON: {error}") from None
    return profile_from_json(document, path=path)


def check_profile(profile: Profile, key: ProfileKey, *, path: str = "profile") -> None:
    """Raise `ValueError` unless `profile` is of `key`; it says what differs, and what would be right.

    An estimated profile is of no package version, so its versions are not compared.
    """
    pairs = [(name, getattr(profile.key, name), getattr(key, name)) for name in ("model", "device", "dtype")]
    if not profile.is_estimated:
        pairs += [
            (f"versions.{name}", profile.key.versions.get(name, "none"), key.versions.get(name, "none"))
            for name in sorted({*profile.key.versions, *key.versions})
        ]
    differing = [
        f"{path}.key.{name}: the profile is of {had!r}, here it must be {wanted!r}"
        for name, had, wanted in pairs
        if had != wanted
    ]
    if differing:
        raise ValueError("; ".join(differing))


def profile_as_json(profile: Profile) -> dict[str, Any]:
    """The document that `profile_from_json` reads."""
    return {
        "format_version": FORMAT_VERSION,
        "is_estimated": profile.is_estimated,
        "made_at": profile.made_at,
        "key": {
            "model": profile.key.model,
            "device": profile.key.device,
            "dtype": profile.key.dtype,
            "versions": dict(profile.key.versions),
        },
        "footprint": profile.footprint,
        "degrees": list(profile.degrees),
        "kv_bytes_per_token": profile.kv_bytes_per_token,
        "held_out_error": profile.held_out_error,
        "held_out_cell_error": profile.held_out_cell_error,
        "held_out_share": profile.held_out_share,
        "kv": profile.kv,
        "prefill": {str(degree): asdict(terms) for degree, terms in sorted(profile.prefill.items())},
        "switch": {f"{one}->{two}": asdict(terms) for (one, two), terms in sorted(profile.switch.items())},
        "cells": [asdict(cell) for cell in profile.cells],
    }


def profile_from_json(document: object, *, path: str = "profile") -> Profile:
    """The profile that `profile_as_json` wrote. Raises `ValueError` that begins with `path` and the field."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{path}: must be an object, is {_shown(document)}")
    # Before all else: what another version's fields mean is not known.
    version = document.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise ValueError(
            f"{path}.format_version: {version!r} cannot be read; it must be {FORMAT_VERSION}; measure again"
        )
    try:
        content = _object(document, "", _PROFILE)
        del content["format_version"]
        return Profile(**content)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None


def _object(content: object, path: str, readers: Mapping[str, _Reader]) -> dict[str, Any]:
    """The fields of a JSON object: each of `readers`, and no other."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: must be an object, is {_shown(content)}")
    prefix = f"{path}." if path else ""
    for name in content:
        if name not in readers:
            raise ValueError(f"{prefix}{name}: unknown; use {', '.join(readers)}")
    for name in readers:
        if name not in content:
            raise ValueError(f"{prefix}{name}: missing")
    return {name: read(content[name], f"{prefix}{name}") for name, read in readers.items()}


def _text(content: object, path: str) -> str:
    if not isinstance(content, str):
        raise ValueError(f"{path}: must be a text, is {_shown(content)}")
    return content


def _flag(content: object, path: str) -> bool:
    if not isinstance(content, bool):
        raise ValueError(f"{path}: must be true or false, is {_shown(content)}")
    return content


def _whole(content: object, path: str) -> int:
    if not isinstance(content, int) or isinstance(content, bool):
        raise ValueError(f"{path}: must be a whole number, is {_shown(content)}")
    return content


def _number(content: object, path: str) -> float:
    if not isinstance(content, int | float) or isinstance(content, bool):
        raise ValueError(f"{path}: must be a number, is {_shown(content)}")
    return float(content)


def _optional(read: _Reader) -> _Reader:
    return lambda content, path: None if content is None else read(content, path)


def _tuple(read: _Reader) -> _Reader:
    def read_all(content: object, path: str) -> tuple[Any, ...]:
        if not isinstance(content, list):
            raise ValueError(f"{path}: must be a list, is {_shown(content)}")
        return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(content))

    return read_all


def _mapping(read_key: _Reader, read: _Reader) -> _Reader:
    def read_all(content: object, path: str) -> dict[Any, Any]:
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: must be an object, is {_shown(content)}")
        return {read_key(key, f"{path}.{key}"): read(item, f"{path}.{key}") for key, item in content.items()}

    return read_all


def _value(kind: type, readers: Mapping[str, _Reader]) -> _Reader:
    return lambda content, path: kind(**_object(content, path, readers))


def _degree(key: object, path: str) -> int:
    match = re.fullmatch("[1-9][0-9]{0,8}", str(key))
    if match is None:
        raise ValueError(f"{path}: {key!r} is no degree")
    return int(match[0])


def _pair(key: object, path: str) -> tuple[int, int]:
    one, arrow, two = str(key).partition("->")
    if not arrow:
        raise ValueError(f"{path}: {key!r} is no pair of degrees like '1->2'")
    return _degree(one, path), _degree(two, path)


_KEY: Final[dict[str, _Reader]] = {
    "model": _text,
    "device": _text,
    "dtype": _text,
    "versions": _mapping(_text, _text),
}
_CELL: Final[dict[str, _Reader]] = {
    "degree": _whole,
    "batch": _whole,
    "context_tokens": _whole,
    "busy_groups": _whole,
    "seconds": _number,
    "half_width_seconds": _number,
    "num_samples": _whole,
}
_PREFILL: Final[dict[str, _Reader]] = {
    "fixed_seconds": _number,
    "token_seconds": _number,
    "relative_error_p90": _number,
}
_SWITCH: Final[dict[str, _Reader]] = {
    "fixed_seconds": _number,
    "request_seconds": _number,
    "exchange_seconds": _number,
    "migrated_request_seconds": _number,
    "byte_seconds": _number,
    "recomputed_token_seconds": _number,
    "relative_error_p90": _number,
    "most_requests": _optional(_whole),
    "most_bytes": _optional(_whole),
    "most_recomputed_tokens": _optional(_whole),
}
_PROFILE: Final[dict[str, _Reader]] = {
    "format_version": _whole,
    "is_estimated": _flag,
    "made_at": _text,
    "key": _value(ProfileKey, _KEY),
    "footprint": _whole,
    "degrees": _tuple(_whole),
    "kv_bytes_per_token": _whole,
    "held_out_error": _optional(_number),
    "held_out_cell_error": _optional(_number),
    "held_out_share": _number,
    "kv": _text,
    "prefill": _mapping(_degree, _value(PrefillTerms, _PREFILL)),
    "switch": _mapping(_pair, _value(SwitchTerms, _SWITCH)),
    "cells": _tuple(_value(StepCell, _CELL)),
}


def _shown(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lines(document: Mapping[str, Any]) -> str:
    """The document as text, a cell a line."""
    cells = ",\n".join(f"    {json.dumps(cell, allow_nan=False)}" for cell in document["cells"])
    head = json.dumps({**document, "cells": []}, indent=2, allow_nan=False)
    empty = '"cells": []\n}'
    assert head.endswith(empty), "the cells come last"
    return f'{head.removesuffix(empty)}"cells": [\n{cells}\n  ]\n}}\n'
