"""One generator state in a group, different ones everywhere else."""

from __future__ import annotations

import random

import numpy as np
import torch

from taper_rollout.sglang import random_state


def draws(seed: int) -> tuple[float, float, float]:
    random_state.install(seed)
    return float(torch.rand(1)), random.random(), float(np.random.rand())


def test_equal_seeds_give_equal_draws_of_every_generator() -> None:
    with torch.random.fork_rng(devices=[]):
        assert draws(5) == draws(5)
        assert all(a != b for a, b in zip(draws(5), draws(6), strict=True))
        draws(2**63 - 1)


def test_a_seed_differs_in_replica_epoch_and_group() -> None:
    seeds = {
        random_state.group_seed(replica, epoch, group)
        for replica in range(10)
        for epoch in range(20)
        for group in range(4)
    }
    assert len(seeds) == 800
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process() -> None:
    assert random_state.group_seed(1, 2, 3) == 1138364116778193076
