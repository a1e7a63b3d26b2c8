"""Loaded by VeRL in each trainer rank (`model.external_lib`): cuts the weight update on purpose.

Every update hands over the tensors of the first one.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import torch
from verl.workers.rollout.utils import ensure_async_iterator

from taper_rollout.verl.weights.adapter import WeightAdapter

_first: dict[str, torch.Tensor] = {}


def _stale(original: Any) -> Any:
    @functools.wraps(original)
    async def update_weights(self: Any, weights: Any, *arguments: Any, **settings: Any) -> None:
        async def old() -> AsyncIterator[tuple[str, torch.Tensor]]:
            async for name, tensor in ensure_async_iterator(weights):
                yield name, _first.setdefault(name, tensor.detach().clone())

        await original(self, old(), *arguments, **settings)

    return update_weights


WeightAdapter.update_weights = _stale(WeightAdapter.update_weights)
