"""GPUs of the machine, or of the Ray cluster, that a job runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResources:
    """Resources to run on. Without a GPU, ranks are CPU processes.

    flash_attention: whether the package `flash_attn` is installed here
    """

    num_gpus: int
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
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )

    @classmethod
    def of_cluster(cls, nodes: Sequence[Mapping[str, float]]) -> Self:
        """The resources of a Ray cluster, from those of its nodes as Ray names them.

        Ray adds `accelerator_type:…` where it found a real GPU. Without it, "GPU" counts logical ones.
        """
        is_real = any(name.startswith("accelerator_type:") for node in nodes for name in node)
        return cls(
            num_gpus=int(sum(node.get("GPU", 0) for node in nodes)) if is_real else 0,
            flash_attention=importlib.util.find_spec("flash_attn") is not None,
        )
