"""The replica of a job, to measure its profile or to check the one that the job names."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from taper_api import JobError, Problem, RLHFJob
from taper_rollout.job.requirements import model_config
from taper_rollout.profiling.key import checkpoint_dtype
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.profiling.store import named_profile, wanted_by
from taper_rollout.verl.settings import replica_settings

PROFILE_FIELD = "spec.rollout.profile"
LOCAL_ADDRESS = "127.0.0.1"


def job_replica(job: RLHFJob, config: DictConfig, *, device: str) -> ReplicaSettings:
    """The settings that the job's first replica would have; `config` is what the job becomes for VeRL.

    Raises `JobError` for a model that cannot be loaded.
    """
    rollout: Any = OmegaConf.to_container(config.actor_rollout_ref.rollout, resolve=True)
    return replica_settings(
        SimpleNamespace(**rollout),
        model_path=local_model(job.spec.model.path, path="spec.model.path"),
        model_dtype=checkpoint_dtype(model_config(job.spec.model.path)),
        trust_remote_code=job.spec.model.trust_remote_code,
        replica=0,
        device=device,
        node_address=LOCAL_ADDRESS,
    )


def local_model(name: str, *, path: str) -> str:
    """The directory of a model: itself, or where the Hugging Face hub's files are. Raises `JobError`."""
    if Path(name).is_dir():
        return os.path.abspath(name)
    # Imported late: a model in a directory needs no hub client.
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "name a model directory in Hugging Face form, or the id of a model that can be loaded"
        raise JobError([Problem(path=path, message=f"{name}: {reason}", remedy=remedy)]) from None


def check_job_profile(job: RLHFJob, *, device: str) -> None:
    """Check the profile that the job names. `JobError` if it is broken or does not fit the job.

    With `device` empty the job runs on other machines: then only what is in the job is compared,
    and the replicas compare the rest when they start.
    """
    rollout = job.spec.rollout
    if rollout.profile is None:
        return
    model = job.spec.model
    wanted = wanted_by(rollout, model_config(model.path), dtype=model.dtype, device=device or "cpu")
    try:
        named_profile(Path(rollout.profile), wanted, path=PROFILE_FIELD, is_elsewhere=not device)
    except ValueError as error:
        raise JobError(problems_of(error)) from None


def problems_of(error: ValueError) -> list[Problem]:
    """What is wrong with a profile, from the text of its `ValueError`: `path: what` and more after `; `."""
    remedy = "measure one with `taper profile -f JOB`, or remove the field"
    parts = str(error).split(f"; {PROFILE_FIELD}")
    texts = [parts[0], *(f"{PROFILE_FIELD}{part}" for part in parts[1:])]
    split = [text.partition(": ") for text in texts]
    return [Problem(path=path, message=message, remedy=remedy) for path, _, message in split]
