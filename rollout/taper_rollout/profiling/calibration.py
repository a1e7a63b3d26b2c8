"""Obtains a replica's profile when it starts.

The profile is the one that the job names, or that of the store, or is measured on the replica's engine
and stored. If measuring fails, the error is logged and the replica serves without a profile.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from taper_policy.profile.profile import Profile
from taper_rollout.events import Calibration, StepSeconds
from taper_rollout.profiling.grid import QUICK, Grid
from taper_rollout.profiling.profiler import Switch, find_capacity, measure_profile, warm_up
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import (
    default_directory,
    named_profile,
    store_profile,
    stored_profile,
    wanted_of,
)
from taper_rollout.sglang.engine import CommandFailed, ElasticEngine

log = logging.getLogger("taper.replica_profile")

PROFILE_SETTING = "actor_rollout_ref.rollout.custom.profile"
# Batch sizes of one busy group, as in a tail, whose step times the run prints.
REPORTED_BATCHES = (1, 4)


def calibration_of(profile: Profile, settings: ReplicaSettings) -> Calibration:
    """The steps of one busy group at the shortest context, by degree and batch."""
    shortest = min(cell.context_tokens for cell in profile.cells)
    steps = tuple(
        StepSeconds(degree=cell.degree, batch=cell.batch, seconds=cell.seconds, num_samples=cell.num_samples)
        for cell in profile.cells
        if cell.busy_groups == 1
        and cell.context_tokens == shortest
        and cell.batch in REPORTED_BATCHES
        and cell.degree in settings.rollout.degrees
    )
    return Calibration(replica=settings.replica, step_seconds=steps)


async def obtain_profile(
    engine: ElasticEngine,
    settings: ReplicaSettings,
    switch: Switch,
    *,
    grid: Grid = QUICK,
) -> Profile | None:
    """The named profile, that of the store, or a new one; with `calibrate` off, the named one or None.

    Raises `ValueError`, which begins with the setting, if the named one cannot be used.
    """
    if settings.rollout.profile is not None:
        return named_profile(Path(settings.rollout.profile), wanted_of(settings), path=PROFILE_SETTING)
    if not settings.calibrate:
        return None
    wanted = wanted_of(settings)
    directory = Path(settings.profiles) if settings.profiles else default_directory(os.environ)
    try:
        places = grid.places(await find_capacity(engine, settings))
    except ValueError as error:
        log.warning("replica %d: cannot measure a profile: %s", settings.replica, error)
        return None
    degrees = settings.rollout.degrees
    batches = [max(place.batch for place in places if place.degree == degree) for degree in degrees]
    found = stored_profile(directory, wanted, batches=batches)
    if found is not None:
        log.info("replica %d: using the profile %s", settings.replica, directory / wanted.file_name)
        await warm_up(engine, settings, switch, grid=grid)
        return found
    try:
        profile = await measure_profile(engine, settings, switch, grid=grid)
    except (ValueError, TimeoutError, CommandFailed):
        log.exception("replica %d: measuring a profile failed; serving without one", settings.replica)
        return None
    try:
        store_profile(directory, wanted, profile)
    except OSError as error:
        log.warning("the profile could not be stored: %s", error)
    return profile
