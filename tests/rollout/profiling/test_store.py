"""Profiles are found by their key; broken ones and those of another key are never used."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from taper_policy.profile.file import profile_as_json, write_profile
from taper_rollout.profiling.store import (
    Wanted,
    default_directory,
    named_profile,
    store_profile,
    stored_profile,
)

from ..measured_profile import KEY, measured_profile

WANTED = Wanted(key=KEY, footprint=2, degrees=(1, 2))
OTHERS = [
    dataclasses.replace(WANTED, key=dataclasses.replace(KEY, model="qwen3-2")),
    dataclasses.replace(WANTED, key=dataclasses.replace(KEY, device="GPU")),
    dataclasses.replace(WANTED, key=dataclasses.replace(KEY, dtype="bfloat16")),
    dataclasses.replace(WANTED, key=dataclasses.replace(KEY, versions={"sglang": "2"})),
    dataclasses.replace(WANTED, footprint=4),
    dataclasses.replace(WANTED, degrees=(2,)),
]


def test_a_stored_profile_is_found_by_its_key_only(tmp_path: Path) -> None:
    profile = measured_profile()
    file = store_profile(tmp_path / "new" / "store", WANTED, profile)
    assert [entry.name for entry in file.parent.iterdir()] == [WANTED.file_name]
    assert stored_profile(file.parent, WANTED) == profile
    assert len({wanted.file_name for wanted in [WANTED, *OTHERS]}) == 1 + len(OTHERS)
    assert [stored_profile(file.parent, wanted) for wanted in OTHERS] == [None] * len(OTHERS)


def test_a_missing_store_is_empty(tmp_path: Path) -> None:
    assert stored_profile(tmp_path / "none", WANTED) is None


def test_file_names_have_plain_characters() -> None:
    key = dataclasses.replace(KEY, model="../a b/ü")
    assert set(dataclasses.replace(WANTED, key=key).file_name).isdisjoint("/ ü")


def broken(kind: str) -> bytes:
    document: dict[str, Any] = profile_as_json(measured_profile())
    whole = json.dumps(document).encode()
    if kind == "truncated":
        return whole[: len(whole) // 2]
    if kind == "absurd":
        document["cells"][3]["seconds"] = -1
    elif kind == "another version's":
        document["format_version"] = 99
    else:
        document["key"]["device"] = "moved here from elsewhere"
    return json.dumps(document).encode()


@pytest.mark.parametrize("kind", ["truncated", "absurd", "another version's", "moved"])
def test_a_broken_file_is_logged_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    file = tmp_path / WANTED.file_name
    file.write_bytes(broken(kind))
    with caplog.at_level(logging.WARNING):
        assert stored_profile(tmp_path, WANTED) is None
    assert "cannot be used and is measured again" in caplog.text
    assert str(file) in caplog.text


def test_a_profile_of_smaller_batches_is_measured_again(tmp_path: Path) -> None:
    store_profile(tmp_path, WANTED, measured_profile(most_batch=8))
    assert stored_profile(tmp_path, WANTED, batches=(8, 8)) is not None
    assert stored_profile(tmp_path, WANTED, batches=(8, 16)) is None


def test_a_named_profile_must_match(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    write_profile(measured_profile(), file)
    assert named_profile(file, WANTED, path="spec.x") == measured_profile()
    fields = ["key.model", "key.device", "key.dtype", "key.versions.sglang", "footprint"]
    for wanted, field in zip(OTHERS, fields, strict=False):
        with pytest.raises(ValueError, match=rf"^spec\.x\.{field}: "):
            named_profile(file, wanted, path="spec.x")
    more = dataclasses.replace(WANTED, degrees=(1, 2, 4))
    with pytest.raises(ValueError, match=r"^spec\.x\.degrees: the profile has \[1, 2\], but \[4\] are"):
        named_profile(file, more, path="spec.x")
    named_profile(file, OTHERS[-1], path="spec.x")


def test_for_another_machine_device_and_versions_are_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    write_profile(measured_profile(), file)
    named_profile(file, OTHERS[1], path="p", is_elsewhere=True)
    named_profile(file, OTHERS[3], path="p", is_elsewhere=True)
    with pytest.raises(ValueError, match=r"^p\.key\.model: "):
        named_profile(file, OTHERS[0], path="p", is_elsewhere=True)


def test_an_error_names_the_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^spec\.x: .*cannot be read: Is a directory"):
        named_profile(tmp_path, WANTED, path="spec.x")


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/taper/profiles"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/taper/profiles"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/taper/profiles"),
        ({"HOME": "/h"}, "/h/.cache/taper/profiles"),
    ],
)
def test_the_directory_of_the_users_store(environment: dict[str, str], directory: str) -> None:
    assert default_directory(environment) == Path(directory)
