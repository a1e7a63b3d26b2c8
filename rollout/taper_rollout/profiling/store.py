"""The store of profiles: a directory of files, each named after the key of its profile.

A profile that a job names must match. One in the store that does not match, or cannot be read, is
ignored with a warning in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from taper_api.job.rollout_spec import RolloutSpec
from taper_policy.profile.file import check_profile, read_profile, write_profile
from taper_policy.profile.profile import Profile, ProfileKey
from taper_rollout.job.requirements import model_config
from taper_rollout.profiling.key import profile_key
from taper_rollout.profiling.replica_settings import ReplicaSettings

log = logging.getLogger("taper.profile_store")

DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a profile must match to serve a replica."""

    key: ProfileKey
    footprint: int
    degrees: tuple[int, ...]

    def check(self, profile: Profile, *, path: str, is_elsewhere: bool = False) -> None:
        """Raise `ValueError`, which begins with `path` and the field, if the profile does not match.

        is_elsewhere: the profile is for another machine, whose device and versions are unknown here
        """
        own = profile.key
        key = replace(self.key, device=own.device, versions=own.versions) if is_elsewhere else self.key
        check_profile(profile, key, path=path)
        if profile.footprint != self.footprint:
            raise ValueError(
                f"{path}.footprint: the profile is for {profile.footprint} ranks, not {self.footprint}"
            )
        missing = [degree for degree in self.degrees if degree not in profile.degrees]
        if missing:
            raise ValueError(
                f"{path}.degrees: the profile has {list(profile.degrees)}, but {missing} are used too"
            )

    @property
    def file_name(self) -> str:
        """Name of the profile's file in the store: the model, for people, and a digest of everything."""
        content = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:DIGEST_DIGITS]
        model = re.sub(r"[^A-Za-z0-9.-]+", "-", self.key.model)
        return f"{model}-{self.key.dtype}-tp{self.footprint}-{digest}.json"


def wanted_of(settings: ReplicaSettings) -> Wanted:
    """What a profile must match to serve this replica on this machine."""
    config = model_config(settings.model_path, is_raw=True)
    return wanted_by(settings.rollout, config, dtype=settings.dtype, device=settings.device)


def wanted_by(rollout: RolloutSpec, config: Mapping[str, Any], *, dtype: str, device: str) -> Wanted:
    """What a profile must match to serve a replica of the model with this config.json."""
    key = profile_key(config, dtype=dtype, device=device, footprint=rollout.footprint)
    return Wanted(key=key, footprint=rollout.footprint, degrees=rollout.degrees)


def default_directory(environment: Mapping[str, str]) -> Path:
    """The user's store, according to the XDG base directory specification."""
    cache = environment.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    home = Path(cache) if cache.startswith("/") else Path(environment.get("HOME", "/")) / ".cache"
    return home / "taper" / "profiles"


def named_profile(file: Path, wanted: Wanted, *, path: str, is_elsewhere: bool = False) -> Profile:
    """The profile in a file that the user named in the setting `path`. `is_elsewhere`: see `Wanted.check`.

    Raises `ValueError`, which begins with `path`, if it cannot be read, is broken or does not match.
    """
    try:
        profile = read_profile(file, path=path)
    except OSError as error:
        raise ValueError(f"{path}: {file} cannot be read: {error.strerror or error}") from None
    wanted.check(profile, path=path, is_elsewhere=is_elsewhere)
    return profile


def stored_profile(directory: Path, wanted: Wanted, *, batches: Sequence[int] = ()) -> Profile | None:
    """The stored profile that matches `wanted`; None if there is no usable one.

    batches: per degree, the batch size up to which the profile must have been measured
    """
    file = directory / wanted.file_name
    if not file.exists():
        return None
    try:
        profile = read_profile(file)
        wanted.check(profile, path="profile")
    except (OSError, ValueError) as error:
        log.warning("the profile %s cannot be used and is measured again: %s", file, error)
        return None
    for degree, batch in zip(wanted.degrees, batches, strict=False):
        measured = max(cell.batch for cell in profile.cells if cell.degree == degree)
        if measured < batch:
            log.info(
                "the profile %s ends at %d requests in TP%d and is measured again", file, measured, degree
            )
            return None
    return profile


def store_profile(directory: Path, wanted: Wanted, profile: Profile) -> Path:
    """Write a profile to the store. Returns its file. Raises `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / wanted.file_name
    write_profile(profile, file)
    return file
