"""Single fields of a job, set from outside its file: `taper run --set spec.training.steps=3`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from taper_api import JobError, Problem, RLHFJob, load_job, parse_job
from taper_api.base.yaml12 import Yaml12Loader
from taper_api.job_file import resolve_paths

# Names below `spec.verl` are VeRL's own, dots and all.
RAW_PREFIX = "spec.verl."
_PART = re.compile(r"([A-Za-z][A-Za-z0-9_]*)((?:\[[0-9]+\])*)")


def parsed_setting(setting: str) -> tuple[str, Any]:
    """Path and value of a `FIELD=VALUE` setting; values are YAML. Raises `JobError` for any other text."""
    field, equals, text = setting.partition("=")
    if not equals or not field:
        raise _problem(f"--set {setting}", "has no value", "write it like spec.training.steps=3")
    _keys(field)
    try:
        return field, yaml.load(text, Loader=Yaml12Loader)
    except yaml.YAMLError:
        raise _problem(f"--set {field}", f"{text!r} is not a YAML value", "quote it") from None


def load_job_with(path: Path, fields: Sequence[tuple[str, Any]]) -> RLHFJob:
    """The job in a file with fields set, by their paths.

    Raises `JobError`, as `load_job` does. A field may mend a mistake of the file.
    """
    if not fields:
        return load_job(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Yaml12Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        return load_job(path)  # which says what is wrong with the file
    for field, value in fields:
        set_field(content, field, value)
    # JSON is YAML in which no scalar is taken for something else.
    try:
        text = json.dumps(content, default=str)
    except ValueError:
        raise _problem(str(path), "has a mapping or list that contains itself", "remove that alias") from None
    return resolve_paths(parse_job(text, str(path)), path.absolute().parent)


def set_field(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a field of a job's content by its path (`spec.data.train[0]`), in place.

    Raises `JobError` where the path leads nowhere.
    """
    keys = _keys(path)
    place: Any = content
    for key, following in itertools.pairwise(keys):
        if isinstance(key, str) and isinstance(place, dict) and isinstance(following, str):
            place = place.setdefault(key, {})
        else:
            place = _inside(place, key, path)
        if place is None:
            raise _problem(path, "is below a field that is empty", "set that field first")
    _put(place, keys[-1], value, path)


def _keys(path: str) -> list[str | int]:
    if path.startswith(RAW_PREFIX):
        return ["spec", "verl", path.removeprefix(RAW_PREFIX)]
    keys: list[str | int] = []
    for part in path.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            raise _problem(path, "is not the path of a field", "write it like spec.training.steps")
        keys.append(found[1])
        keys += [int(index) for index in re.findall(r"[0-9]+", found[2])]
    return keys


def _inside(place: Any, key: str | int, path: str) -> Any:
    try:
        return place[key]
    except (KeyError, IndexError, TypeError):
        raise _problem(path, f"there is no {key!r} to set it in", "check the path") from None


def _put(place: Any, key: str | int, value: Any, path: str) -> None:
    fits = isinstance(place, dict) if isinstance(key, str) else isinstance(place, list) and key < len(place)
    if not fits:
        raise _problem(path, f"there is no {key!r} to set", "check the path")
    place[key] = value


def _problem(path: str, message: str, remedy: str) -> JobError:
    return JobError([Problem(path=path, message=message, remedy=remedy)])
