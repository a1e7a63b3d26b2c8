"""From a job to VeRL's configuration: pure, complete, and the user's raw settings win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from taper_api import RLHFJob
from taper_rollout.job.host import HostResources
from taper_rollout.training import CPU_MICRO_BATCH_TOKENS, compose, verl_overrides

CPU = HostResources(num_gpus=0, num_cpus=2)
GPU = HostResources(num_gpus=8, num_cpus=64, flash_attention=True)
JOB: dict[str, Any] = {
    "apiVersion": "taper.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"path": "/models/tiny", "dtype": "float32"},
        "data": {"train": ["/data/train.jsonl"], "maxPromptTokens": 64, "seed": 7},
        "reward": {"function": "gsm8k", "settings": {"method": "flexible"}},
        "algorithm": {"learningRate": 1e-3, "miniBatchPrompts": 4, "epochsPerStep": 2},
        "training": {
            "steps": 5,
            "batchPrompts": 8,
            "ranks": 4,
            "checkpoints": {"everySteps": 2, "keep": 3},
        },
        "rollout": {
            "footprint": 2,
            "samplesPerPrompt": 4,
            "responseTokens": 16,
            "policy": {"name": "schedule", "schedule": [{"tokens": 4, "degree": 2}]},
            "sampling": {"temperature": 0.5, "seed": 11},
        },
    },
}
OUTPUT = Path("/runs/it's here, now")


def config_of(host: HostResources = CPU, run: str | None = None, **spec: Any) -> Any:
    job = RLHFJob.model_validate(JOB | {"spec": JOB["spec"] | spec})
    return compose(verl_overrides(job, host=host, output=OUTPUT, run=run))


def test_the_jobs_fields_reach_verl() -> None:
    config = config_of()
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.name, rollout.tensor_model_parallel_size, rollout.n) == ("taper", 2, 4)
    assert (rollout.temperature, rollout.response_length, rollout.prompt_length) == (0.5, 16, 64)
    assert rollout.custom.policy == {"name": "schedule", "schedule": [{"tokens": 4, "degree": 2}]}
    assert (rollout.custom.sampling.seed, rollout.custom.output) == (11, str(OUTPUT))
    assert (config.trainer.n_gpus_per_node, config.trainer.total_training_steps) == (4, 5)
    assert (config.trainer.save_freq, config.trainer.test_freq, config.trainer.resume_mode) == (2, -1, "auto")
    assert config.trainer.default_local_dir == str(OUTPUT / "checkpoints")
    assert (config.data.seed, config.data.shuffle, config.data.train_batch_size) == (7, True, 8)
    actor = config.actor_rollout_ref.actor
    assert (actor.optim.lr, actor.ppo_mini_batch_size, actor.ppo_epochs) == (1e-3, 4, 2)
    arguments = config.reward.custom_reward_function.reward_kwargs
    assert (arguments.function, dict(arguments.settings)) == ("gsm8k", {"method": "flexible"})


def test_cpu_settings_only_without_a_gpu() -> None:
    on_cpu, on_gpu = config_of(CPU), config_of(GPU)
    assert (on_cpu.trainer.device, on_gpu.trainer.device) == ("cpu", "cuda")
    assert on_cpu.actor_rollout_ref.actor.fsdp_config.dtype == "float32"
    assert on_gpu.actor_rollout_ref.actor.fsdp_config.dtype == "bfloat16"
    assert on_cpu.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert "attn_implementation" not in on_gpu.actor_rollout_ref.model.override_config
    assert on_cpu.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == CPU_MICRO_BATCH_TOKENS


def test_samples_are_packed_unless_a_gpu_lacks_flash_attention() -> None:
    plain_gpu = HostResources(num_gpus=8, num_cpus=64, flash_attention=False)
    packed = [config_of(h).actor_rollout_ref.model.use_remove_padding for h in (CPU, GPU, plain_gpu)]
    assert packed == [True, True, False]


@pytest.mark.parametrize(
    ("name", "estimator", "filtering", "clip_high"),
    [("grpo", "grpo", False, 0.2), ("ppo", "gae", False, 0.2), ("dapo", "grpo", True, 0.28)],
)
@pytest.mark.parametrize("host", [CPU, GPU])
def test_each_algorithm_composes(
    name: str, estimator: str, filtering: bool, clip_high: float, host: HostResources
) -> None:
    config = config_of(host, algorithm={"name": name, "klCoefficient": 0.01})
    assert config.algorithm.adv_estimator == estimator
    assert config.algorithm.filter_groups.enable is filtering
    assert config.actor_rollout_ref.actor.clip_ratio_high == clip_high
    assert config.algorithm.use_kl_in_reward is (name == "ppo")
    assert config.actor_rollout_ref.actor.use_kl_loss is (name != "ppo")


def test_raw_settings_override_others_and_may_be_new() -> None:
    config = config_of(
        verl={"actor_rollout_ref.actor.optim.lr": 5e-4, "trainer.some_new_name": {"a": [1, "b"]}}
    )
    assert config.actor_rollout_ref.actor.optim.lr == 5e-4
    assert OmegaConf.to_container(config.trainer.some_new_name) == {"a": [1, "b"]}


def test_rewards_and_replicas_get_the_runs_name() -> None:
    config = config_of(run="taper_run_1")
    assert config.reward.custom_reward_function.reward_kwargs.run == "taper_run_1"
    assert config.actor_rollout_ref.rollout.custom.run == "taper_run_1"


def test_an_unknown_override_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"refuses an override.*no_such_name"):
        compose(["trainer.no_such_name=1"])


def test_logical_gpus_do_not_make_a_gpu_host() -> None:
    assert HostResources.of_cluster({"GPU": 2.0, "CPU": 16.0}).num_gpus == 0
    assert HostResources.of_cluster({"GPU": 8.0, "CPU": 64.0, "accelerator_type:H200": 1.0}).num_gpus == 8
