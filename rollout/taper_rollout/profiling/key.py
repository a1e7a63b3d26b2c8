"""The key of a profile: what decides the speed, that is model shape, device, dtype and versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taper_policy.profile.profile import ProfileKey

PACKAGES = ("sglang", "taper", "torch")
# Entries of config.json that do not affect the speed. The dtype is a separate part of the key.
NOT_SHAPE = frozenset(
    {
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
    }
)
DIGEST_DIGITS = 12


def profile_key(config: Mapping[str, Any], *, dtype: str, device: str, footprint: int) -> ProfileKey:
    """The key of a model on this machine.

    config: content of its config.json
    dtype: `auto` stands for that of the checkpoint
    device: torch's device type
    """
    return ProfileKey(
        model=model_name(config),
        device=device_name(device, footprint),
        dtype=actual_dtype(config, dtype),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )


def model_name(config: Mapping[str, Any]) -> str:
    """The model type and a digest of its shape, so equal for all weights of one shape."""
    shape = {name: value for name, value in config.items() if name not in NOT_SHAPE}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    return f"{config.get('model_type', 'model')}-{digest[:DIGEST_DIGITS]}"


def actual_dtype(config: Mapping[str, Any], dtype: str) -> str:
    """`dtype`, where `auto` stands for that of the checkpoint."""
    return checkpoint_dtype(config) if dtype == "auto" else dtype


def checkpoint_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that a checkpoint's config.json names."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def device_name(device: str, footprint: int) -> str:
    """The name of the GPU, or of the processor with the number of cores that a footprint uses."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name(0))
    cores = len(os.sched_getaffinity(0))
    return f"{processor_name()}, {min(footprint, cores)} of {cores} cores"


def processor_name() -> str:
    """The model name that the kernel reports, or the architecture if it reports none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()
