"""Loaded by VeRL in each trainer rank (`model.external_lib`): notes digests of the weights handed over."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from verl.workers.rollout.utils import ensure_async_iterator

from taper_rollout.verl.weights.adapter import WeightAdapter

FILE = Path(os.environ["WEIGHT_PROBE_FILE"])


def digest_of(name: str, tensor: torch.Tensor) -> str:
    """The hash of a tensor's name, type, shape and bits."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + data).hexdigest()


def _probed(original: Any) -> Any:
    @functools.wraps(original)
    async def update_weights(
        self: Any, weights: Any, global_steps: int | None = None, **settings: Any
    ) -> None:
        digests: dict[str, str] = {}

        async def noted() -> AsyncIterator[tuple[str, torch.Tensor]]:
            async for name, tensor in ensure_async_iterator(weights):
                digests[name] = digest_of(name, tensor)
                yield name, tensor

        await original(self, noted(), global_steps=global_steps, **settings)
        line = json.dumps({"version": global_steps, "rank": self.rollout_rank, "digests": digests})
        with FILE.open("a") as file:
            file.write(line + "\n")

    return update_weights


WeightAdapter.update_weights = _probed(WeightAdapter.update_weights)
