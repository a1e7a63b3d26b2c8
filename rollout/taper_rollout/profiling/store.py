"""Where profiles are kept: a directory of files, each named after the key that its profile is of.

A profile that a job names must fit; one that is found in the store and does not, or cannot
be read, is as if it were not there, and is told in a log line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from taper_policy.profile.file import check_profile, read_profile, write_profile
from taper_policy.profile.profile import Profile, ProfileKey

log = logging.getLogger("taper.profile_store")

DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a profile has to be of to serve a replica."""

    key: ProfileKey
    footprint: int
    degrees: tuple[int, ...]

    def check(self, profile: Profile, *, path: str, is_elsewhere: bool = False) -> None:
        """Raise `ValueError`, which begins with `path` and the field, for a profile of something else.

        `is_elsewhere`: it is to be used on a machine that is not this one, of which less is known.
        """
        own = profile.key
        key = replace(self.key, device=own.device, versions=own.versions) if is_elsewhere else self.key
        check_profile(profile, key, path=path)
        if profile.footprint != self.footprint:
            raise ValueError(
                f"{path}.footprint: the profile is of {profile.footprint}, here it must be {self.footprint}"
            )
        missing = [degree for degree in self.degrees if degree not in profile.degrees]
        if missing:
            raise ValueError(f"{path}.degrees: the profile has {list(profile.degrees)}, here {missing} too")

    @property
    def file_name(self) -> str:
        """Of the profile in a store: the model to be read by people, and a digest of all the rest."""
        content = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:DIGEST_DIGITS]
        model = re.sub(r"[^A-Za-z0-9.-]+", "-", self.key.model)
        return f"{model}-{self.key.dtype}-tp{self.footprint}-{digest}.json"


def default_directory(environment: Mapping[str, str]) -> Path:
    """The user's store, by the XDG base directory specification."""
    cache = environment.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the specification.
    home = Path(cache) if cache.startswith("/") else Path(environment.get("HOME", "/")) / ".cache"
    return home / "taper" / "profiles"


def named_profile(file: Path, wanted: Wanted, *, path: str, is_elsewhere: bool = False) -> Profile:
    """The profile in a file that a user named in the setting `path`; to be used on another machine, or here.

    Raises `ValueError`, which begins with `path`, where it cannot be read, is broken or does not fit.
    """
    try:
        profile = read_profile(file, path=path)
    except OSError as error:
        raise ValueError(f"{path}: {file} cannot be read: {error.strerror or error}") from None
    wanted.check(profile, path=path, is_elsewhere=is_elsewhere)
    return profile


def kept_profile(directory: Path, wanted: Wanted, *, batches: Sequence[int] = ()) -> Profile | None:
    """The store's profile of `wanted`; None where there is none that can be used.

    `batches`: of a group of each of the degrees, up to which it must have been measured.
    """
    file = directory / wanted.file_name
    if not file.exists():
        return None
    try:
        profile = read_profile(file)
        wanted.check(profile, path="profile")
    except (OSError, ValueError) as error:
        log.warning("the profile %s cannot be used and is measured anew: %s", file, error)
        return None
    for degree, batch in zip(wanted.degrees, batches, strict=False):
        measured = max(cell.batch for cell in profile.cells if cell.degree == degree)
        if measured < batch:
            log.info("the profile %s ends at %d requests of TP%d: measured anew", file, measured, degree)
            return None
    return profile


def keep_profile(directory: Path, wanted: Wanted, profile: Profile) -> Path:
    """Keep a profile in the store; its file. Raises `OSError` where it cannot be written."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / wanted.file_name
    write_profile(profile, file)
    return file
