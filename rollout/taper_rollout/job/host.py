"""GPUs and CPUs of the machine, or of the Ray cluster, that a job runs on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResources:
    """Resources to run on. Without a GPU, ranks are CPU processes.

    flash_attention: whether the package `flash_attn` is installed here
    """

    num_gpus: int
    num_cpus: int
    flash_attention: bool = False

    @property
    def device(self) -> str:
        """Torch's device type for the ranks."""
        return "cuda" if self.num_gpus else "cpu"

    @classmethod
    def local(cls) -> Self:
        """The resources of this machine."""
        import torch

        return cls(
            num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            num_cpus=os.cpu_count() or 1,
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )

    @classmethod
    def of_cluster(cls, resources: Mapping[str, float]) -> Self:
        """The resources of a Ray cluster, from `ray.cluster_resources()`.

        Ray adds `accelerator_type:…` where it found a real GPU. Without it, "GPU" counts logical ones.
        """
        real = any(name.startswith("accelerator_type:") for name in resources)
        return cls(
            num_gpus=int(resources.get("GPU", 0)) if real else 0,
            num_cpus=int(resources.get("CPU", 1)),
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )
