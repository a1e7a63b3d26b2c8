"""How an engine is started: SGLang's arguments and environment, from Taper's settings."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any
from unittest import mock


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How to start an engine. `kv_tokens`: arena tokens of a rank at the base degree."""

    model_path: str
    footprint: int
    degrees: tuple[int, ...]
    device: str = "cpu"
    dtype: str = "auto"
    kv_tokens: int | None = None
    max_running_requests: int = 64
    context_tokens: int | None = None
    seeded: bool = False
    replica_seed: int = 0
    staging_bytes_per_rank: int = 0
    start_timeout_seconds: float = 600.0
    collective_timeout_seconds: float = 300.0
    trust_remote_code: bool = False
    log_level: str = "error"
    plugins: tuple[str, ...] = ()

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks have to share cores."""
        return self.footprint > (os.cpu_count() or 1)

    def arguments(self) -> dict[str, Any]:
        """SGLang's server arguments, without `tp_size`."""
        on_cpu = self.device == "cpu"
        chosen: dict[str, Any] = {
            "model_path": self.model_path,
            "device": self.device,
            "dtype": self.dtype,
            "skip_tokenizer_init": True,
            "grammar_backend": "none",
            "disable_overlap_schedule": True,
            "disable_cuda_graph": True,
            "sleep_on_idle": True,
            "max_running_requests": self.max_running_requests,
            "max_total_tokens": self.kv_tokens,
            "context_length": self.context_tokens,
            "random_seed": self.replica_seed & 0x7FFFFFFF,
            "trust_remote_code": self.trust_remote_code,
            "log_level": self.log_level,
            "mem_fraction_static": 0.3 if on_cpu else None,
            "enable_memory_saver": not on_cpu,
        }
        if on_cpu or self.seeded:
            chosen["sampling_backend"] = "pytorch"
        if on_cpu:
            chosen["attention_backend"] = "torch_native"
        return {name: value for name, value in chosen.items() if value is not None}


def environment(settings: EngineSettings) -> contextlib.AbstractContextManager[object]:
    """While it is entered, the environment that rank processes inherit; SGLang reads these at import."""
    wanted = {"SGLANG_USE_MESSAGE_QUEUE_BROADCASTER": "0"}
    if settings.device == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        binding = "|".join(str(cores[rank % len(cores)]) for rank in range(settings.footprint))
        wanted |= {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "SGLANG_CPU_OMP_THREADS_BIND": binding,
            # SGLang compiles a few elementwise helpers: seconds at the first batch of each
            # stack, a C++ compiler needed, nothing gained at these sizes.
            "TORCH_COMPILE_DISABLE": "1",
            # It compares free memory at two moments: on CPU that of the machine, not of a rank,
            # so whatever else ends or starts meanwhile would fail the start.
            "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0",
        }
    return mock.patch.dict(os.environ, wanted)
