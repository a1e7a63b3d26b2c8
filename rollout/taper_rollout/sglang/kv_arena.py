"""One KV memory for all stacks of a rank.

The base stack allocates each layer's K and V as `[slots, heads, dim]`. At `w` times the
base degree the same bytes are `[w*slots, heads/w, dim]`: the wide stack's pool is a view,
so no rank pays for two pools. Slot 0 stays the padding slot of every view. Only the
active stack may hold slots; a switch reads a layer of the old layout completely before
it writes that layer in the new one (`kv_exchange`).

Sleeping gives the arena's pages back to the kernel (CPU) and keeps the addresses, so
views stay good and waking is free: pages come back, zeroed, when they are written.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch

_libc = ctypes.CDLL(None, use_errno=True)
_MADV_DONTNEED = 4


def adopt(pool: Any, base_pool: Any, widening: int) -> None:
    """Make a wide stack's pool out of the base pool's buffers. Raises ValueError if the shapes do not fit."""
    pool.k_buffer = [_widen(buffer, widening, pool) for buffer in base_pool.k_buffer]
    pool.v_buffer = [_widen(buffer, widening, pool) for buffer in base_pool.v_buffer]


def _widen(buffer: torch.Tensor, widening: int, pool: Any) -> torch.Tensor:
    slots, heads, dim = buffer.shape
    view = buffer.view(slots * widening, heads // widening, dim)
    wanted = (pool.size + pool.page_size, pool.head_num, dim)
    if tuple(view.shape) != wanted:
        raise ValueError(f"KV arena: {tuple(buffer.shape)} widened by {widening} is not {wanted}")
    return view


def discard(pool: Any) -> None:
    """Give the arena's whole pages back to the kernel. CPU only."""
    storages = [buffer.untyped_storage() for buffer in (*pool.k_buffer, *pool.v_buffer)]
    for address, size_bytes in {storage.data_ptr(): storage.nbytes() for storage in storages}.items():
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (address + size_bytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if size > 0 and _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise of the KV arena failed")
