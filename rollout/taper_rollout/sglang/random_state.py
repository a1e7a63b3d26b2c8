"""One agreed generator state a group, and a different one in every group.

Ranks that decoded apart have drawn different numbers. When they merge, unseeded
sampling would make them pick different tokens and split; when a group is split with its
state copied, its parts would draw the same noise and make siblings of a prompt equal.
So each commit seeds every rank from (replica seed, epoch, group): equal within a group,
independent between groups, epochs and replicas.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def group_seed(replica_seed: int, epoch: int, group: int) -> int:
    """A 63-bit seed; pure."""
    digest = hashlib.blake2b(f"{replica_seed}/{epoch}/{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def install(seed: int) -> None:
    """Set torch's (all devices), Python's and numpy's global generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
