"""What the machine, or the Ray cluster that the job runs on, has."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResources:
    """GPUs and CPUs to run on. Without a GPU the ranks are CPU processes."""

    num_gpus: int
    num_cpus: int
    flash_attention: bool = False

    @property
    def device(self) -> str:
        """Torch's kind of device for the ranks."""
        return "cuda" if self.num_gpus else "cpu"

    @classmethod
    def local(cls) -> Self:
        """Of this machine."""
        import torch

        return cls(
            num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            num_cpus=os.cpu_count() or 1,
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )

    @classmethod
    def of_cluster(cls, resources: Mapping[str, float]) -> Self:
        """Of a Ray cluster, from `ray.cluster_resources()`.

        Ray adds `accelerator_type:…` where it found a real GPU: without it, "GPU" counts logical ones.
        """
        real = any(name.startswith("accelerator_type:") for name in resources)
        return cls(
            num_gpus=int(resources.get("GPU", 0)) if real else 0,
            num_cpus=int(resources.get("CPU", 1)),
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )
