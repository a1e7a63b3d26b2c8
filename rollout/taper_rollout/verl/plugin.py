"""Taper's VeRL plugin, loaded in each VeRL process (entry-point group `verl.plugins`; read from VeRL 0.9.1).

Registers `actor_rollout_ref.rollout.name=taper`. With `VERL_PLATFORM=cpu` it also adds a CPU platform and
fixes what fails there: the name of the process group, and pinned memory for reference models. Without flash
attention, it lets PPO's critic load with torch's own. Nothing else changes for a job with another rollout.
VeRL logs the failure of a plugin at DEBUG only, so failures are logged here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from types import ModuleType
from typing import Any

from taper_rollout.verl.after_import import AfterImport

ROLLOUT_NAME = "taper"
ADAPTER = "taper_rollout.verl.weights.adapter.WeightAdapter"

_logger = logging.getLogger(__name__)


def _load_replica() -> type[Any]:
    """Called by VeRL in the trainer's process, only for jobs with Taper's rollout."""
    from taper_rollout.verl import trainer_hooks
    from taper_rollout.verl.replica import TaperReplica

    trainer_hooks.install()
    return TaperReplica


def _register_replica(module: ModuleType) -> None:
    module.RolloutReplicaRegistry.register(ROLLOUT_NAME, _load_replica)


def _register_adapter(module: ModuleType) -> None:
    module._ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = ADAPTER


def _use_gloo_once(module: Any) -> None:
    """VeRL builds "cpu:gloo,<device>:<backend>", which torch rejects if the device is "cpu" too."""
    original = module.initialize_global_process_group_ray

    def initialize(timeout_second: float | None = None, backend: str | None = None) -> None:
        original(timeout_second, backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize


def _pin_no_memory(module: Any) -> None:
    """VeRL keeps a reference model in pinned memory, which needs a GPU."""
    original = module.CPUOffloadPolicy

    def policy(pin_memory: bool = False) -> Any:
        return original(pin_memory=False)

    module.CPUOffloadPolicy = policy


def _load_critic_without_flash_attention(module: Any) -> None:
    """VeRL requires flash attention to load a critic. Use torch's own attention instead."""

    def load(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation="sdpa",
            trust_remote_code=trust_remote_code,
        )

    module.load_valuehead_model = load


def install(environment: dict[str, str] | os._Environ[str]) -> None:
    """Queue the registrations. On CPU, register the platform at once, before VeRL looks for one."""
    after_import = AfterImport()
    after_import.add("verl.workers.rollout.replica", _register_replica)
    after_import.add("verl.workers.rollout.base", _register_adapter)
    if importlib.util.find_spec("flash_attn") is None:
        after_import.add("verl.utils.model", _load_critic_without_flash_attention)
    if environment.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    from taper_rollout.verl import cpu_platform

    cpu_platform.register()
    # VeRL registers its FSDP engines for cuda and npu only; this variable overrides the look-up.
    environment.setdefault("VERL_ENGINE_DEVICE", "cuda")
    after_import.add("verl.utils.distributed", _use_gloo_once)
    after_import.add("verl.workers.engine.fsdp.transformer_impl", _pin_no_memory)


try:
    install(os.environ)
except Exception:
    _logger.exception("Taper's VeRL plugin failed; rollout.name=taper will not work in this process")
    raise
