"""What VeRL loads in each of its processes (entry-point group `verl.plugins`; read from VeRL 0.9.1).

It makes `actor_rollout_ref.rollout.name=taper` known. Only where `VERL_PLATFORM=cpu` asks for
it, it also adds a CPU platform and mends what VeRL cannot do there: the process group's
name, and pinned memory for reference models. Where flash attention is not installed, PPO's
critic loads without it. Nothing else changes for a job with another rollout. VeRL logs a
plugin's failure at DEBUG only, so failures are logged here.
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
    """Called by VeRL in the trainer's process, and only when the job's rollout is ours."""
    from taper_rollout.verl import trainer_hooks
    from taper_rollout.verl.replica import TaperReplica

    trainer_hooks.install()
    return TaperReplica


def _register_replica(module: ModuleType) -> None:
    module.RolloutReplicaRegistry.register(ROLLOUT_NAME, _load_replica)


def _register_adapter(module: ModuleType) -> None:
    module._ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = ADAPTER


def _use_gloo_once(module: Any) -> None:
    """VeRL composes "cpu:gloo,<device>:<backend>", which torch rejects when the device is "cpu" too."""
    original = module.initialize_global_process_group_ray

    def initialize(timeout_second: float | None = None, backend: str | None = None) -> None:
        original(timeout_second, backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize


def _pin_no_memory(module: Any) -> None:
    """VeRL keeps a reference model in pinned memory, which there is only beside a GPU."""
    original = module.CPUOffloadPolicy

    def policy(pin_memory: bool = False) -> Any:
        return original(pin_memory=False)

    module.CPUOffloadPolicy = policy


def _load_critic_without_flash_attention(module: Any) -> None:
    """VeRL loads a critic with flash attention or not at all; where it is missing, torch's own serves."""

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
    """Queue the registrations; on CPU register the platform now, before VeRL looks for one."""
    after_import = AfterImport()
    after_import.add("verl.workers.rollout.replica", _register_replica)
    after_import.add("verl.workers.rollout.base", _register_adapter)
    if importlib.util.find_spec("flash_attn") is None:
        after_import.add("verl.utils.model", _load_critic_without_flash_attention)
    if environment.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    from taper_rollout.verl import cpu_platform

    cpu_platform.register()
    # VeRL registers its FSDP engines for cuda and npu only; this is its own override of the look-up.
    environment.setdefault("VERL_ENGINE_DEVICE", "cuda")
    after_import.add("verl.utils.distributed", _use_gloo_once)
    after_import.add("verl.workers.engine.fsdp.transformer_impl", _pin_no_memory)


try:
    install(os.environ)
except Exception:
    _logger.exception("Taper's VeRL plugin failed; rollout.name=taper will not work in this process")
    raise
