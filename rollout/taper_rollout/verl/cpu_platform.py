"""VeRL's device interface for hosts without an accelerator (VeRL 0.9.1 has none for CPU).

Ranks are ordinary processes, which Ray counts as logical GPUs, so that VeRL's placement works unchanged. The
platform is never detected, only selected with `VERL_PLATFORM=cpu`.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """A device call without an effect on CPU."""


def _zero(*_args: Any, **_kwargs: Any) -> int:
    return 0


def _set_rng_state(state: torch.Tensor, *_args: Any, **_kwargs: Any) -> None:
    torch.set_rng_state(state)


def _device_module() -> types.ModuleType:
    """The part of `torch.cuda` that VeRL calls. Not "available", so VeRL's cache helpers return early."""
    module = types.ModuleType("taper_torch_cpu")
    members: dict[str, Any] = dict.fromkeys(
        (
            "empty_cache",
            "synchronize",
            "set_device",
            "ipc_collect",
            "reset_peak_memory_stats",
            "reset_accumulated_memory_stats",
        ),
        _nothing,
    )
    members |= dict.fromkeys(
        ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"), _zero
    )
    members |= {
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "get_rng_state": lambda *_args: torch.get_rng_state(),
        "set_rng_state": _set_rng_state,
        "mem_get_info": lambda *_args: (0, 0),
        "device_count": lambda: 1,
        "current_device": lambda: torch.device("cpu"),
        "get_device_name": lambda *_args: "cpu",
        "is_available": lambda: False,
    }
    module.__dict__.update(members)
    return module


class CPUPlatform(PlatformBase):
    """One CPU "device" per process, gloo between processes, shared memory instead of device IPC."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing
    nvtx_range = contextlib.nullcontext
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never by detection

    def current_device(self) -> torch.device:
        return torch.device("cpu")  # VeRL does `tensor.to(get_device_id())`

    def device_count(self) -> int:
        return 1

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        return "GPU"  # counted as logical GPUs

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False


def register() -> None:
    """Register the platform `cpu` with VeRL in this process."""
    PlatformRegistry.register(platform="cpu")(CPUPlatform)
