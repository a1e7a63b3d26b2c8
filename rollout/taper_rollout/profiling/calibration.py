"""What a replica knows of its own speed when it starts: a profile.

The profile is the one that the job names, or the store's, or is measured now on the engine
that will serve, and kept. One that cannot be measured is told and done without: the
replica serves all the same.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taper_policy.profile.profile import Profile
from taper_rollout.job.requirements import model_config
from taper_rollout.profiling.grid import QUICK, Grid
from taper_rollout.profiling.key import profile_key
from taper_rollout.profiling.profiler import Progress, Switch, find_capacity, measure_profile, warm_up
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import Wanted, default_directory, keep_profile, kept_profile, named_profile
from taper_rollout.sglang.engine import CommandFailed, ElasticEngine

log = logging.getLogger("taper.replica_profile")

PROFILE_SETTING = "actor_rollout_ref.rollout.custom.profile"
# The run reports decode steps of these batches, with one busy group as in the tail of a stage.
REPORTED_BATCHES = (1, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A replica's profile, and the event that tells the run about it; None where there is none."""

    profile: Profile | None
    event: dict[str, Any] | None


async def calibrate(engine: ElasticEngine, switch: Switch, settings: ReplicaSettings) -> Calibration:
    """Obtain the profile of an idle engine in its base layout."""
    profile = await obtain_profile(engine, settings, switch)
    if profile is None:
        return Calibration(profile=None, event=None)
    steps = reported_steps(profile, settings.degrees)
    event = {"kind": "Calibration", "replica": settings.replica, "step_seconds": steps}
    return Calibration(profile=profile, event=event)


def reported_steps(profile: Profile, degrees: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measured steps of one busy group at the shortest context, by degree and batch; JSON-ready."""
    shortest = min(cell.context_tokens for cell in profile.cells)
    return [
        {
            "degree": cell.degree,
            "batch": cell.batch,
            "seconds": cell.seconds,
            "num_samples": cell.num_samples,
        }
        for cell in profile.cells
        if cell.busy_groups == 1
        and cell.context_tokens == shortest
        and cell.batch in REPORTED_BATCHES
        and cell.degree in degrees
    ]


async def obtain_profile(
    engine: ElasticEngine,
    settings: ReplicaSettings,
    switch: Switch,
    *,
    grid: Grid = QUICK,
    on_progress: Progress = lambda share, doing: None,
) -> Profile | None:
    """The named profile, the store's, or one measured now; with `calibrate` off, the named one or None.

    Raises `ValueError`, which begins with the setting, where the named one cannot be used.
    """
    if settings.profile is not None:
        return named_profile(Path(settings.profile), wanted_of(settings), path=PROFILE_SETTING)
    if not settings.calibrate:
        return None
    wanted = wanted_of(settings)
    directory = Path(settings.profiles) if settings.profiles else default_directory(os.environ)
    try:
        places = grid.places(await find_capacity(engine, settings))
    except ValueError as error:
        log.warning("replica %d: no profile can be measured: %s", settings.replica, error)
        return None
    batches = [max(place.batch for place in places if place.degree == degree) for degree in settings.degrees]
    found = kept_profile(directory, wanted, batches=batches)
    if found is not None:
        log.info("replica %d: profile from %s", settings.replica, directory / wanted.file_name)
        await warm_up(engine, settings, switch, grid=grid)
        return found
    try:
        profile = await measure_profile(engine, settings, switch, grid=grid, on_progress=on_progress)
    except (ValueError, TimeoutError, CommandFailed):
        log.exception("replica %d: no profile could be measured", settings.replica)
        return None
    try:
        keep_profile(directory, wanted, profile)
    except OSError as error:
        log.warning("the profile is not kept: %s", error)
    return profile


def wanted_of(settings: ReplicaSettings) -> Wanted:
    """What a replica's profile has to be of, on this machine."""
    return Wanted(
        key=profile_key(
            model_config(settings.model_path, is_raw=True),
            dtype=settings.dtype,
            device=settings.device,
            footprint=settings.footprint,
        ),
        footprint=settings.footprint,
        degrees=settings.degrees,
    )
