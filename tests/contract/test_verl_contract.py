"""What Taper assumes about VeRL 0.9.1. A failure names what has changed, and what relies on it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from taper_rollout.job.support_matrix import VERSIONS
from taper_rollout.training import compose
from taper_rollout.verl.checkpoints import selection as checkpoints

# (module, dotted name in it, who relies on it)
NAMES = [
    ("verl.plugin.platform", "PlatformRegistry.register", "cpu_platform"),
    ("verl.plugin.platform", "PlatformBase", "cpu_platform"),
    ("verl.plugin.platform", "get_platform", "replica"),
    ("verl.utils.device", "get_device_id", "weights"),
    ("verl.utils.device", "get_device_name", "weights"),
    ("verl.utils.device", "is_support_ipc", "adapter"),
    ("verl.utils.distributed", "initialize_global_process_group_ray", "plugin"),
    ("verl.utils.model", "load_valuehead_model", "plugin"),
    ("verl.workers.engine.fsdp.transformer_impl", "CPUOffloadPolicy", "plugin"),
    ("verl.workers.rollout.base", "_ROLLOUT_REGISTRY", "plugin"),
    ("verl.workers.rollout.base", "BaseRollout", "adapter"),
    ("verl.workers.rollout.replica", "RolloutReplicaRegistry.register", "plugin"),
    ("verl.workers.rollout.replica", "RolloutReplica.launch_servers", "replica"),
    ("verl.workers.rollout.replica", "TokenOutput", "server"),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._wait_for_next_poll", "trainer_hooks"),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBufferAsync", "trainer_hooks"),
    ("verl.trainer.ppo.v1.trainer_base", "PPOTrainer.on_validate_begin", "trainer_hooks"),
    ("verl.trainer.ppo.v1.trainer_base", "PPOTrainer.on_validate_end", "trainer_hooks"),
    ("verl.workers.rollout.llm_server", "LLMServerManager.get_replicas", "trainer_hooks"),
    ("verl.workers.rollout.replica", "RolloutReplica.server_handle", "trainer_hooks"),
    ("verl.trainer.ppo.v1.trainer_base", "PPOTrainer._save_checkpoint", "old_checkpoints"),
    ("verl.utils.tracking", "Tracking.__init__", "trainer_hooks"),
    ("verl.utils.tracking", "Tracking.log", "trainer_hooks"),
    ("verl.trainer.main_ppo", "TaskRunnerV1.__ray_metadata__", "runner"),
    ("verl.trainer.main_ppo", "auto_set_device", "runner"),
    ("verl.trainer.main_ppo", "validate_config", "runner"),
    ("verl.trainer.ppo.utils", "need_critic", "runner"),
    ("verl.trainer.ppo.utils", "need_reference_policy", "runner"),
    ("verl.trainer.constants_ppo", "PPO_RAY_RUNTIME_ENV", "session"),
    ("verl.utils.reward_score.gsm8k", "compute_score", "rewards"),
    ("verl.utils.reward_score.math_reward", "compute_score", "rewards"),
]
SERVER_METHODS = [
    "wake_up",
    "sleep",
    "abort_all_requests",
    "resume_generation",
    "clear_kv_cache",
    "release_kv_cache",
    "resume_kv_cache",
    "start_profile",
    "stop_profile",
]


def find(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_supported_one() -> None:
    assert importlib.metadata.version("verl") == VERSIONS["verl"]


@pytest.mark.parametrize(("module", "name", "user"), NAMES)
def test_the_name_exists(module: str, name: str, user: str) -> None:
    assert find(module, name) is not None, f"{module}.{name}, used by taper_rollout.verl.{user}"


def test_a_critic_loads_without_flash_attention(tmp_path: Path) -> None:
    from taper_rollout.sample.model import TINY, make_model

    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash attention is installed: VeRL's own loader serves")
    from transformers import AutoConfig

    make_model(tmp_path, TINY)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=1)
    load = find("verl.utils.model", "load_valuehead_model")
    critic = load(str(tmp_path), torch_dtype=torch.float32, model_config=config, trust_remote_code=False)
    assert critic.config._attn_implementation == "sdpa"
    callers = inspect.getsource(importlib.import_module("verl.workers.engine.fsdp.transformer_impl"))
    assert "from verl.utils.model import" in callers
    assert "load_valuehead_model" in callers


def test_our_rollout_is_registered() -> None:
    from taper_rollout.verl.replica import TaperReplica
    from taper_rollout.verl.weights.adapter import WeightAdapter

    assert find("verl.workers.rollout.replica", "RolloutReplicaRegistry").get("taper") is TaperReplica
    assert find("verl.workers.rollout.base", "get_rollout_class")("taper", "async") is WeightAdapter
    assert not inspect.isabstract(TaperReplica)
    assert not inspect.isabstract(WeightAdapter)


def test_the_replica_calls_only_methods_that_the_server_has() -> None:
    from taper_rollout.verl.server import ReplicaServer

    source = inspect.getsource(find("verl.workers.rollout.replica", "RolloutReplica"))
    for method in SERVER_METHODS:
        assert f"server.{method}.remote(" in source, method
        assert inspect.iscoroutinefunction(getattr(ReplicaServer, method)), method
    assert source.count(".remote(") - source.count("rollout_worker_actor_cls") <= len(SERVER_METHODS) + 1


def test_generate_accepts_what_the_client_sends() -> None:
    from taper_rollout.verl.server import ReplicaServer

    sent = {"request_id", "prompt_ids", "sampling_params", "image_data", "video_data", "audio_data"}
    sent |= {"mm_processor_kwargs", "priority"}
    assert sent <= set(parameters(ReplicaServer.generate))
    client = inspect.getsource(find("verl.workers.rollout.llm_server", "LLMServerClient.generate"))
    for name in ("request_id=", "prompt_ids=", "sampling_params=", "image_data=", "video_data="):
        assert name in client
    assert 'kwargs.pop("mm_processor_output"' in client  # else it would reach `generate`
    assert {"token_ids", "log_probs", "stop_reason", "num_preempted", "extra_fields"} <= set(
        find("verl.workers.rollout.replica", "TokenOutput").model_fields
    )


def test_the_adapter_accepts_weights_as_the_trainer_sends_them() -> None:
    source = inspect.getsource(find("verl.workers.engine_workers", "ActorRolloutRefWorker"))
    for call in (
        'await self.rollout.resume(tags=["weights"])',
        'await self.rollout.resume(tags=["kv_cache"])',
        "per_tensor_param, peft_config=peft_config, base_sync_done=True, global_steps=global_steps",
    ):
        assert call in source, call


def test_the_transfer_works_as_the_ends_expect() -> None:
    from taper_rollout.verl.weights import buckets

    module = buckets._transfer
    for name in ("_init_socket", "_init_buffer", "_cleanup"):
        assert hasattr(module.BucketedWeightSender, name), name
        assert hasattr(module.BucketedWeightReceiver, name), name
    receive = inspect.getsource(module.BucketedWeightReceiver.receive_weights)
    for part in ("self._init_socket()", "self._init_buffer()", "rebuild_ipc(handle, self.device.index)"):
        assert part in receive, part
    assert "if self._ack_pending:" in inspect.getsource(module.BucketedWeightReceiver._cleanup)
    assert parameters(module.BucketedWeightSender.__init__)[1:] == ["zmq_handle", "bucket_size_mb", "use_shm"]
    assert parameters(module.BucketedWeightReceiver.__init__)[1:] == ["zmq_handle", "device", "use_shm"]


def test_the_platform_is_complete() -> None:
    from taper_rollout.verl.cpu_platform import CPUPlatform

    assert not inspect.isabstract(CPUPlatform)
    assert find("verl.plugin.platform", "PlatformRegistry").get("cpu") is not None


def test_the_hooks_keep_to_verls_signatures() -> None:
    wait = find("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._wait_for_next_poll")
    assert parameters(wait) == ["self", "partition_id", "last_debug_time"]
    assert "time.sleep(self.poll_interval)" in inspect.getsource(inspect.unwrap(wait))
    init = parameters(inspect.unwrap(find("verl.utils.tracking", "Tracking.__init__")))
    assert init == ["self", "project_name", "experiment_name", "default_backend", "config"]
    assert "self.logger.items()" in inspect.getsource(find("verl.utils.tracking", "Tracking.log"))


def test_steps_are_posted_and_a_validation_before_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from taper_rollout.events import Step
    from taper_rollout.verl import trainer_hooks

    posts: list[Any] = []
    hosts: list[tuple[str, Any]] = []
    reporter = SimpleNamespace(post=SimpleNamespace(remote=posts.append))
    monkeypatch.setattr(trainer_hooks, "post_to_all", lambda run, event: hosts.append((run, event)))
    monkeypatch.setattr(trainer_hooks.ray, "get_actor", lambda name: reporter)
    monkeypatch.setattr(trainer_hooks.ray, "get", lambda call, timeout: None)
    report = trainer_hooks.StepReport("run")
    report.log({"val-core/reward/mean@1": 0.5, "note": "x"}, step=0)
    report.log({"training/global_step": 1, "critic/score/mean": 0.25}, step=1)
    assert posts == [Step(step=1, metrics={"training/global_step": 1.0, "critic/score/mean": 0.25})]
    assert hosts == [("run", post) for post in posts]
    metrics = inspect.getsource(find("verl.trainer.ppo.v1.trainer_base", "PPOTrainer._compute_metrics"))
    assert '"training/global_step"' in metrics


def test_replicas_are_notified_of_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    from taper_rollout.verl import trainer_hooks

    trainer_hooks.install()
    stages: list[int] = []
    monkeypatch.setattr(trainer_hooks.ray, "get", lambda calls, timeout: None)
    handle = SimpleNamespace(set_stage=SimpleNamespace(remote=stages.append))
    manager = SimpleNamespace(get_replicas=lambda: [SimpleNamespace(server_handle=handle)])
    trainer = SimpleNamespace(global_steps=3, llm_server_manager=manager)
    trainer_class = find("verl.trainer.ppo.v1.trainer_base", "PPOTrainer")
    trainer_class.on_validate_begin(trainer)
    trainer_class.on_validate_end(trainer)
    assert stages == [3, 4]
    fit = inspect.getsource(trainer_class.fit)
    assert fit.count("self.on_validate_begin()") == fit.count("self.on_validate_end()") == 2


def test_polling_is_frequent_and_dapo_still_filters() -> None:
    """The reason for the hook: VeRL drops the filter's arguments where a custom sampler is configured."""
    from taper_rollout.verl import trainer_hooks

    trainer_hooks.install()
    buffer_class = find("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer")
    buffer = buffer_class(
        "sync",
        {},
        None,
        "drop",
        {},
        refill_fn=lambda count: None,
        filter_groups_metric="reward",
        train_batch_size=4,
    )
    buffer._wait_for_next_poll("train", float("inf"))
    assert buffer.poll_interval == trainer_hooks.POLL_SECONDS
    assert buffer.filter_groups_metric == "reward"
    build = inspect.getsource(find("verl.trainer.ppo.v1.trainer_base", "PPOTrainer._build_replay_buffer"))
    assert "if not has_custom_sampler:" in build


def test_the_environment_of_a_run_has_verls_names() -> None:
    from taper_rollout.verl.session import VERL_ENVIRONMENT

    theirs = find("verl.trainer.constants_ppo", "PPO_RAY_RUNTIME_ENV")["env_vars"]
    assert theirs.items() <= VERL_ENVIRONMENT.items()


def test_the_wrapper_accepts_the_arguments_of_rewards() -> None:
    from taper_rollout.verl.inputs.rewards import GUARD_NAME, GUARD_PATH, score

    load = find("verl.utils.import_utils", "load_extern_object")
    assert load(module_path=GUARD_PATH, object_name=GUARD_NAME) is score
    loading = inspect.getsource(find("verl.trainer.ppo.reward", "get_custom_reward_fn"))
    assert 'reward_fn_config.get("reward_kwargs"' in loading
    manager = inspect.getsource(
        find("verl.experimental.reward_loop.reward_manager.naive", "NaiveRewardManager")
    )
    for name in ("data_source=", "solution_str=", "ground_truth=", "extra_info="):
        assert name in manager


def test_the_configuration_has_the_fields_of_a_replica() -> None:
    rollout = OmegaConf.to_container(
        compose(["actor_rollout_ref.rollout.name=taper"]).actor_rollout_ref.rollout
    )
    assert isinstance(rollout, dict)
    wanted = {"prompt_length", "response_length", "max_model_len", "dtype", "seed", "free_cache_engine", "n"}
    assert wanted <= set(rollout)
    fields = find("verl.workers.config", "RolloutConfig").__dataclass_fields__
    assert "custom" in fields


def test_the_fake_coordinator_has_the_methods_of_the_real_one() -> None:
    """Here and not beside it: the real one imports the engine."""
    from taper_rollout.replica.coordinator import Coordinator, Generated
    from taper_rollout.verl.settings import replica_settings

    file = Path(__file__).parents[1] / "rollout" / "verl" / "test_server.py"
    spec = importlib.util.spec_from_file_location("taper_test_server", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # needed by dataclasses
    spec.loader.exec_module(module)
    for name, fake in inspect.getmembers(module.FakeCoordinator, inspect.isfunction):
        assert parameters(fake) == parameters(getattr(Coordinator, name)), name
    assert set(module.FakeGenerated.__annotations__) == set(Generated.__annotations__)
    overrides = ["actor_rollout_ref.rollout.name=taper", "+actor_rollout_ref.rollout.custom=null"]
    rollout = compose(overrides).actor_rollout_ref.rollout
    replica_settings(
        rollout,
        model_path="m",
        model_dtype="float32",
        trust_remote_code=False,
        replica=0,
        device="cpu",
        node_address="10.1.2.3",
    )


@pytest.mark.parametrize("content", list(checkpoints.SHARD_PREFIXES))
def test_a_rank_saves_its_shards_under_the_expected_names(content: str) -> None:
    manager = importlib.import_module("verl.utils.checkpoint.fsdp_checkpoint_manager").FSDPCheckpointManager
    name = f"{checkpoints.SHARD_PREFIXES[content]}_world_size_{{self.world_size}}_rank_{{self.rank}}.pt"
    assert f'"{name}"' in inspect.getsource(manager.save_checkpoint)
    assert f'"{name}"' in inspect.getsource(manager.load_checkpoint)


def test_the_tracker_file_is_written_after_the_checkpoint() -> None:
    trainer = find("verl.trainer.ppo.v1.trainer_base", "PPOTrainer")
    source = inspect.getsource(trainer._save_checkpoint)
    written = [
        "actor_rollout_wg.save_checkpoint(",
        f'"{checkpoints.DATA_FILE}"',
        "torch.save(",
        checkpoints.TRACKER_FILE,
    ]
    places = [source.rindex(text) for text in written]
    assert places == sorted(places)


def test_verl_keeps_its_newest_checkpoint_and_two_while_it_saves() -> None:
    """If it keeps one, it has no complete one for a while: `retention` keeps another."""
    module = importlib.import_module("verl.utils.checkpoint.checkpoint_manager")
    removed: list[str] = []
    manager = SimpleNamespace(
        previous_saved_paths=["1", "2"], remove_previous_save_local_path=lambda paths: removed.extend(paths)
    )
    module.BaseCheckpointManager.ensure_checkpoint_capacity(manager, 2)
    assert removed == ["1"]
    module.BaseCheckpointManager.register_checkpoint(manager, "3", 2)
    assert (removed, manager.previous_saved_paths) == (["1"], ["2", "3"])
    module.BaseCheckpointManager.register_checkpoint(manager, "4", 1)
    assert removed == ["1", "2", "3"]


def test_a_run_resumes_from_the_path_that_is_set() -> None:
    source = inspect.getsource(find("verl.trainer.ppo.v1.trainer_base", "PPOTrainer._load_checkpoint"))
    for text in (
        'resume_mode == "disable"',
        'resume_mode == "resume_path"',
        'split("global_step_")',
        '"actor"',
    ):
        assert text in source
    assert str(find("verl.trainer.ppo.utils", "Role.Critic")) == "critic"
    assert compose(["trainer.resume_mode=auto"]).trainer.resume_from_path is None
