"""Collects what a job requires, before SGLang, VeRL or torch are imported."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taper_api import JobError, Problem
from taper_api.job.rollout_spec import degrees_up_to

PACKAGES = ("sglang", "verl")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a job requires, as plain values.

    model: content of the model's config.json
    settings: VeRL's composed configuration, as nested mappings
    versions: installed versions by package
    is_raw: whether the user runs VeRL's own command without a job; error paths are then VeRL's settings
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    footprint: int
    degrees: tuple[int, ...]
    ranks_per_node: int
    is_raw: bool = False

    def setting(self, name: str) -> Any:
        """A setting of VeRL by its dotted name; None where it is not set."""
        return _setting(self.settings, name)


def gather_facts(settings: Mapping[str, Any], *, is_raw: bool = False) -> Facts:
    """The facts of a run, from VeRL's composed configuration (nested plain mappings, resolved).

    Reads the model's config.json, from disk or the Hugging Face hub, and the installed versions. Raises
    `JobError` if config.json cannot be read.
    """
    footprint = int(_setting(settings, "actor_rollout_ref.rollout.tensor_model_parallel_size") or 1)
    degrees = _setting(settings, "actor_rollout_ref.rollout.custom.degrees") or degrees_up_to(footprint)
    return Facts(
        model=model_config(str(_setting(settings, "actor_rollout_ref.model.path")), is_raw=is_raw),
        settings=settings,
        versions=installed_versions(),
        footprint=footprint,
        degrees=tuple(int(degree) for degree in degrees),
        ranks_per_node=int(_setting(settings, "trainer.n_gpus_per_node") or 1),
        is_raw=is_raw,
    )


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def installed_versions() -> dict[str, str]:
    """Installed versions of the packages that the support matrix pins, without those not installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def model_config(path: str, *, is_raw: bool = False) -> dict[str, Any]:
    """The content of a model's config.json. `path`: a directory or a Hugging Face id. Raises `JobError`."""
    field = "actor_rollout_ref.model.path" if is_raw else "spec.model.path"
    try:
        file = _config_file(path)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        problem = Problem(
            path=field,
            message=f"cannot read config.json of {path} ({reason})",
            remedy="name a model directory in Hugging Face format, or the id of a model on the hub",
        )
        raise JobError([problem]) from None
    if not isinstance(content, dict):
        raise JobError([Problem(path=field, message=f"config.json of {path} is not a mapping")])
    return content


def _config_file(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path) / "config.json"
    if path.startswith(("/", ".", "~")):
        raise FileNotFoundError("there is no such directory")
    # Imported here, as a model in a directory needs no hub client.
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(path, "config.json"))
